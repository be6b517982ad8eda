"""Whether a JSON text names a key twice; every parser takes the last one without a word.

Written again, the parsed value has as many colons as the text, unless a key was dropped; only then is the text parsed
again, slowly. Cost: a microsecond a kilobyte.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

__all__ = ["repeated_key"]

_ESCAPED_COLON: Final = re.compile(rb"\\u003[aA]")  # in a text, and written as a colon again


def repeated_key(raw: bytes, value: Any) -> str | None:
    """A key that stands twice in one object of the JSON text ``raw``, which was parsed as ``value``; or None.

    `RecursionError` where the text is nested too deeply to tell.
    """
    if not _ESCAPED_COLON.search(raw):
        try:
            if orjson.dumps(value).count(b":") == raw.count(b":"):
                return None
        except orjson.JSONEncodeError:
            pass  # nested deeply, or a number or text that only Python's own parser reads
    repeated: list[str] = []

    def check(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                repeated.append(key)
            seen.add(key)

    json.loads(raw, object_pairs_hook=check)
    return repeated[0] if repeated else None
