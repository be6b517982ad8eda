"""From the field ``document`` of a manifest row to a `RawTriplet`: an interleaved document as a user writes it.

``document`` is a list of ``{"media": path or list of media}`` and ``{"text": "..."}`` in reading order. Media belong to
the text that follows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mimicit.errors import RejectedError
from mimicit.sources.files.finding import media_refs
from mimicit.sources.files.root import Root
from mimicit.sources.items import MediaRef, RawTriplet
from mimicit.sources.records.text import checked_text, free_fields, shown


def is_document_row(row: Mapping[str, Any]) -> bool:
    """Whether ``row`` holds a document; with an instruction or an answer, ``document`` is a free field."""
    return isinstance(row.get("document"), list) and row.get("instruction") is None and row.get("answer") is None


def document_from_row(root: Root, row: Mapping[str, Any], *, id: str, place: str, beside: str) -> RawTriplet:
    """The document ``id`` of ``row``, with media found from the folder ``beside``. Raises `RejectedError`."""
    media: list[MediaRef] = []
    parts: list[tuple[int, str]] = []
    waiting = 0
    for number, piece in enumerate(row["document"]):
        fields = {name: value for name, value in piece.items() if value is not None} if isinstance(piece, dict) else {}
        match fields:  # tables write the absent one as null
            case {"media": named, **others} if not others:
                refs = media_refs(root, named if isinstance(named, list) else [named], beside=beside)
                media += refs
                waiting += len(refs)
            case {"text": text, **others} if not others:
                if words := checked_text(text, f"document[{number}].text"):
                    parts.append((waiting, words))
                    waiting = 0
            case _:
                raise RejectedError("malformed", f"document[{number}] must be a medium or a text, not {shown(piece)}")
    if not parts:
        raise RejectedError("empty_answer", "the document has no text")
    if waiting:
        raise RejectedError("malformed", f"no text follows the last {waiting} media of the document")
    return RawTriplet(
        id=id,
        place=place,
        media=tuple(media),
        instruction="",
        answer="",
        meta=free_fields({name: value for name, value in row.items() if name != "document"}),
        parts=tuple(parts),
    )
