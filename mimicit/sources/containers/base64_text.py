"""Base64 as published files write it: either alphabet, with or without padding; bare, as a data URL, or as ``b'...'``.

``b'...'`` is what Python's ``str`` makes of bytes, and is found in files whose authors forgot to decode them.
"""

from __future__ import annotations

import binascii
from typing import Final

import pybase64

from mimicit.errors import RejectedError

_URL_SAFE_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_MAX_PREFIX_BYTES: Final = 200
_MIN_BYTES: Final = 64  # words of its alphabet are shorter
_QUOTES: Final = (b"'", b'"', b'\\"')  # the last if the text is still as JSON writes it
_SEEN_IN_JSON: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=\\\r\n")


def decode_base64(text: bytes) -> bytes:
    """The bytes that ``text`` stands for; `RejectedError` ``bad_base64``, or ``empty_media`` if there are none.

    Accepts the standard and the URL-safe alphabet, absent padding, white space (also between, as MIME wraps lines),
    a prefix such as ``data:image/jpeg;base64,``, and the quotes of a Python literal around it all, such as ``b'...'``.
    Any other character is an error, never skipped.
    """
    text = _bare(text)
    if any(space in text for space in (b"\n", b" ", b"\r", b"\t")):
        text = text.translate(None, b" \t\r\n")
    if b"-" in text or b"_" in text:
        text = text.translate(_URL_SAFE_TO_STANDARD)
    digits = text.rstrip(b"=")
    if len(text) - len(digits) > 2 or len(digits) % 4 == 1:
        raise RejectedError("bad_base64", f"{len(text)} characters cannot be base64: its end is missing or doubled")
    try:
        data = pybase64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error as error:
        raise RejectedError("bad_base64", str(error)) from None
    if not data:
        raise RejectedError("empty_media", "the base64 text is empty")
    return data


def looks_like_base64(text: bytes) -> bool:
    """Whether ``text``, the beginning of a JSON string as the file writes it, may begin a picture in base64."""
    try:
        bare = _bare(text, is_cut=True)
    except RejectedError:
        return False
    return len(bare) >= _MIN_BYTES and _SEEN_IN_JSON.issuperset(bare)


def _bare(text: bytes, *, is_cut: bool = False) -> bytes:
    """``text`` without what stands around the base64; `RejectedError` if it is a data URL of another kind.

    With ``is_cut``, the end of ``text`` may be missing.
    """
    if text[:1].isspace() or text[-1:].isspace():
        text = text.strip()
    if text[:1] == b"b":
        for quote in _QUOTES:
            if text.startswith(b"b" + quote) and (is_cut or text.endswith(quote)):
                text = text[1 + len(quote) :].removesuffix(quote).replace(b"\\n", b"")
                break
    if text[:5].lower() == b"data:":
        prefix, comma, text = text.partition(b",")
        if not comma or not prefix.lower().endswith(b";base64") or len(prefix) > _MAX_PREFIX_BYTES:
            raise RejectedError("bad_base64", "the data URL is not base64")
    return text
