"""JSON files that are one object around big lists, such as ``{"info": ..., "images": [...], "annotations": [...]}``.

The lists are streamed; everything around them is skipped.

The picture files of MIMIC-IT are one JSON object ``{"LA_IMG_000000377944": "<base64>", ...}`` of up to hundreds of GB.

One pass finds where each text lies, and neither decodes nor holds it: about a gigabyte a second in constant memory.
The bytes are read from their place (`InJson`) when the picture is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO, Final

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.json_cursor import JsonCursor, Span
from mimicit.sources.containers.json_rows import MAX_RECORD_BYTES, element, elements, parsed, pass_elements
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InJson, Picture, Piece, Reject, Row
from mimicit.sources.records.text import checked_id

_MAX_TEXT_BYTES: Final = 1 << 16


def member_rows(root: Root, path: str, name: str, piece: Piece | None = None) -> Iterator[Row]:
    """The records of the list called ``name`` in the object at ``path``; places are ``path#name[index]``.

    With a ``piece`` that is a range of the file, only its records. `SourceError` if the file is not one JSON object
    with this list.
    """
    return chain.from_iterable(blocks_of_member(root, path, name, piece))


def blocks_of_member(root: Root, path: str, name: str, piece: Piece | None = None) -> Iterator[list[Row]]:
    """As `member_rows`, in blocks: as many records as fit into 100 KB, or a single one."""
    found = False
    with open_text(root, path) as file:
        if piece is not None and piece.end is not None:
            cursor = JsonCursor(file, path, start=piece.start, end=piece.end)
            yield from elements(cursor, path, f"{path}#{name}", cursor.elements_from(piece.first))
            return
        cursor = JsonCursor(file, path)
        for key in cursor.members():
            if key.raw != name.encode() or cursor.peek() != b"[":
                cursor.value(keep_bytes=0)
                continue
            found = True
            yield from elements(cursor, path, f"{path}#{name}", cursor.elements())
        cursor.finish()
    if not found:
        raise SourceError(f"{path}: has no list {name!r}")


def keyed_rows(root: Root, path: str, piece: Piece | None = None) -> Iterator[Row]:
    """The records of the object ``{id: record}`` at ``path``; the id is the field ``id`` of a record that has none.

    Places are ``path#id``. With a ``piece`` that is a range of the file, only its records. `SourceError` if the file is
    not one JSON object.
    """
    with open_text(root, path) as file:
        for cursor, key in members_in(file, path, piece):
            try:
                id = decoded_key(key)
            except RejectedError as error:
                cursor.value(keep_bytes=0)
                yield Row(f"{path}#byte {key.offset}", error)
                continue
            row = element(cursor, path, f"{path}#{id}")
            yield row if isinstance(row.fields, RejectedError) else row._replace(fields={"id": id, **row.fields})


def first_of_members(root: Root, path: str, *, until: str | None = None) -> dict[str, Any]:
    """A sample of each member of the object at ``path``: the first record of a list, or the text if it is one.

    Anything else is None. Costs one pass over the file, or up to the end of the member ``until``. If the file is
    damaged, the members before the damage.
    """
    found: dict[str, Any] = {}
    try:
        with open_text(root, path) as file:
            cursor = JsonCursor(file, path)
            for key in cursor.members():
                name = (key.raw or b"").decode("utf-8", "replace")
                found[name] = None
                if cursor.peek() != b"[":
                    found[name] = _text(cursor)
                    if name == until:
                        break
                    continue
                for index in cursor.elements():
                    if index == 0:
                        record = element(cursor, path, path).fields
                        found[name] = None if isinstance(record, RejectedError) else record
                    else:
                        pass_elements(cursor, MAX_RECORD_BYTES)
    except SourceError:
        return found  # reading the file will say what is wrong
    return found


def json_pictures(spec: SourceSpec, root: Root, path: str) -> Iterator[Picture | Reject]:
    """Every picture of the file at ``path``, in its order; a value that holds no text is a reject of scope ``media``.

    A value is a text, or a list with one text. With a range of the file (`SourceSpec.piece`), only its pictures.
    `SourceError` if the file is not one JSON object.
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
    """The id that is written as the quoted name ``key``; `RejectedError` if it is not valid."""
    if key.raw is None:
        raise RejectedError("malformed", "the id is too long")
    return checked_id(parsed(b'"' + key.raw + b'"'))


def _text(cursor: JsonCursor) -> str | None:
    """Pass the value at ``cursor``, and return it if it is a text of modest length, else None."""
    is_text = cursor.peek() == b'"'
    span = cursor.value(keep_bytes=_MAX_TEXT_BYTES if is_text else 0)
    try:
        return str(parsed(b'"' + span.raw + b'"')) if is_text and span.raw is not None else None
    except RejectedError:
        return None


def _only_text(cursor: JsonCursor) -> Span | None:
    """Pass the value at ``cursor``, and return where its only text lies, or None if it is anything else."""
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
