"""Texts in UTF-16 and UTF-32, as programs on Windows save them: told by their first bytes, and read as UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO, Final

__all__ = ["MARK_BYTES", "as_utf8", "encoding_of", "utf8_blocks"]

MARK_BYTES: Final = 4
"""The bytes at the beginning of a text that tell its encoding."""

# UTF-32 first: its mark begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BLOCK_BYTES: Final = 1 << 20


def encoding_of(head: bytes) -> str | None:
    """The encoding of a text that begins with ``head``, where it is not a superset of ASCII; None for any other file.

    Without a byte order mark, two characters of ASCII with their zero bytes tell UTF-16.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    for order, encoding in ((0, "utf-16-le"), (1, "utf-16-be")):
        characters, zeros = head[order:MARK_BYTES:2], head[1 - order : MARK_BYTES : 2]
        if zeros == b"\0\0" and all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in characters):
            return encoding
    return None


def as_utf8(data: bytes) -> bytes:
    """The text ``data`` in UTF-8, whatever it is in; without a byte order mark. UnicodeDecodeError where it is cut."""
    encoding = encoding_of(data)
    if encoding is None:
        return data.removeprefix(codecs.BOM_UTF8)
    return data.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")


def utf8_blocks(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """What is left of ``file``, in UTF-8; half a surrogate pair stays one. UnicodeDecodeError where it is cut."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    while block := file.read(_BLOCK_BYTES):
        yield decoder.decode(block).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
