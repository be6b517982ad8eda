"""Shards to and from `datasets` and the Hugging Face Hub.

Needs the extra ``hub``, whose libraries are imported when they are needed, with one message if they are missing.
"""

from __future__ import annotations

import importlib
from typing import Any

from mimicit.errors import UsageError

__all__ = ["needed"]


def needed(module: str, what: str) -> Any:
    """The ``module`` of `datasets` or `huggingface_hub`; `UsageError` says that ``what`` needs the extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise UsageError(f"{what} needs {missing}: pip install 'mimicit[hub]'") from None
