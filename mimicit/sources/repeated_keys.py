"""Whether a JSON object names a key twice; every parser takes the last one without a word.

The parsed value has as many keys as the text has quotes with a colon behind them, unless a key is repeated or a string
holds such a quote; only then is the text parsed again, slowly. Cost: 5 microseconds a record of 500 bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

__all__ = ["repeated_key"]

_KEY_END: Final = re.compile(rb'"[ \t\r\n]*+:')


def repeated_key(raw: bytes, value: Any) -> str | None:
    """A key that stands twice in one object of the JSON text ``raw``, which was parsed as ``value``; or None.

    `RecursionError` where the text is nested too deeply to tell.
    """
    if len(_KEY_END.findall(raw)) == _count_keys(value):
        return None
    repeated: list[str] = []

    def check(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                repeated.append(key)
            seen.add(key)

    json.loads(raw, object_pairs_hook=check)
    return repeated[0] if repeated else None


def _count_keys(value: Any) -> int:
    count = 0
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            count += len(part)
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)
    return count
