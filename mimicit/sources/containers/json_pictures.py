"""The picture files of MIMIC-IT: one JSON object ``{"LA_IMG_000000377944": "<base64>", ...}`` of up to hundreds of GB.

One pass finds where each text lies, and neither decodes nor holds it: about a gigabyte a second in constant memory.
The bytes are read from their place (`InJson`) when the picture is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from mimicit.errors import RejectedError
from mimicit.sources.containers.json_cursor import JsonCursor, Span
from mimicit.sources.containers.json_rows import parsed
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InJson, Picture, Piece, Reject
from mimicit.sources.records.text import checked_id

__all__ = ["decoded_key", "json_pictures", "members_in"]


def json_pictures(spec: SourceSpec, root: Root, path: str) -> Iterator[Picture | Reject]:
    """Every picture of the file at ``path``, in its order; a value that holds no text is a reject of scope ``media``.

    A value is a text, or a list with one text. With a range of the file (`SourceSpec.piece`), only its pictures.
    `SourceError` where the file is not one JSON object.
    """
    with open_text(root, path) as file:
        for cursor, key in members_in(file, path, spec.piece):
            place = f"{path}#byte {key.offset}"
            id = ""
            try:
                span = _only_text(cursor)
                id = decoded_key(key)
                place = f"{path}#{id}"
                if span is None:
                    raise RejectedError("malformed", "a picture must be base64 text, or a list with one such text")
                if span.length == 0:
                    raise RejectedError("empty_media", "the base64 text is empty")
            except RejectedError as error:
                yield spec.reject(error.reason, place=place, id=id, detail=error.detail, scope="media")
            else:
                yield Picture(id, InJson(path, span.offset, span.length), place)


def members_in(file: BinaryIO, path: str, piece: Piece | None) -> Iterator[tuple[JsonCursor, Span]]:
    """The keys of the object in ``file``, or in the range ``piece`` of it, with the cursor before their values."""
    if piece is not None and piece.end is not None:
        cursor = JsonCursor(file, path, start=piece.start, end=piece.end)
        yield from ((cursor, cursor.key()) for _ in cursor.entries_left())
        return
    cursor = JsonCursor(file, path)
    yield from ((cursor, key) for key in cursor.members())
    cursor.finish()


def decoded_key(key: Span) -> str:
    """The id that the quoted name ``key`` spells; `RejectedError` if it is none."""
    if key.raw is None:
        raise RejectedError("malformed", "the id is too long")
    return checked_id(parsed(b'"' + key.raw + b'"'))


def _only_text(cursor: JsonCursor) -> Span | None:
    """Pass the value at ``cursor``; where its one text lies, or None if it is anything else."""
    first = cursor.peek()
    if first == b'"':
        return cursor.value(keep_bytes=0)
    if first != b"[":
        cursor.value(keep_bytes=0)
        return None
    texts: list[Span | None] = []
    for _ in cursor.elements():
        is_text = cursor.peek() == b'"'
        span = cursor.value(keep_bytes=0)
        if len(texts) < 2:
            texts.append(span if is_text else None)
    return texts[0] if len(texts) == 1 else None
