"""TOML that others wrote, read in bounded time: the parser takes time quadratic in the steps of a dotted key."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

__all__ = ["parse_toml"]

_MAX_CHARACTERS: Final = 1 << 20
_MAX_STEPS: Final = 64
_LITERAL: Final = re.compile(r'"(?:[^"\\\n]|\\.)*+"|\'[^\'\n]*+\'')
_BETWEEN_KEYS: Final = re.compile(r"[=,#{}\[\]\n]")


def parse_toml(text: str) -> dict[str, Any]:
    """The value of a TOML text; `ValueError` says what is wrong with it, too much of it or of one key included."""
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"{len(text):,} characters, more than {_MAX_CHARACTERS:,}")
    if text.count(".") > _MAX_STEPS:
        for piece in _BETWEEN_KEYS.split(_LITERAL.sub("_", text)):
            if piece.count(".") > _MAX_STEPS:
                raise ValueError(f"a key of more than {_MAX_STEPS} steps: {piece.strip()[:40]}...")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("too many brackets inside each other") from None
