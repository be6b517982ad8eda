"""Base64 as published files write it: either alphabet, with or without padding, bare or as a data URL."""

from __future__ import annotations

import binascii

import pybase64

from mimicit.errors import RejectedError

__all__ = ["decode_base64"]

_URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_MAX_PREFIX_BYTES = 200


def decode_base64(text: bytes) -> bytes:
    """The bytes that ``text`` stands for; `RejectedError` ``bad_base64``, or ``empty_media`` if there are none.

    Accepts the standard and the URL-safe alphabet, absent padding, white space (also between, as MIME wraps lines),
    and a prefix such as ``data:image/jpeg;base64,``. Any other character is an error, never skipped.
    """
    if text[:5].lower() == b"data:":
        prefix, comma, text = text.partition(b",")
        if not comma or not prefix.lower().endswith(b";base64") or len(prefix) > _MAX_PREFIX_BYTES:
            raise RejectedError("bad_base64", "the data URL is not base64")
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
