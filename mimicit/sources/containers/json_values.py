"""From the values of a table to those that JSON can hold."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["json_value"]


def json_value(value: Any) -> Any:
    """``value`` as JSON can hold it: dates, decimals and infinities as they print, a missing number as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
