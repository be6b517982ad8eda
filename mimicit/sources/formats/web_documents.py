"""From the pictures and texts of a web page, in reading order, to one interleaved document.

A chunk of a document is a run of pictures with all the text up to the next picture. Pictures that cannot be used are
left out, each with a reject of scope ``media``; the document is kept as long as one is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mimicit.errors import RejectedError
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import MediaRef, RawTriplet, Reject
from mimicit.sources.records.text import checked_text

__all__ = ["Slot", "document_items"]

Slot = MediaRef | RejectedError | str
"""A picture, a picture that cannot be used (the detail names it), or a text that has been checked."""


def document_items(
    spec: SourceSpec, pieces: Sequence[Slot], *, id: str, place: str, between: str, meta: Mapping[str, Any]
) -> Iterator[RawTriplet | Reject]:
    """The document of ``pieces`` and a reject for each picture it loses; or the reject of the record, last.

    ``between`` joins the texts of one chunk. Pictures that no text follows are lost: a model has nothing to learn from
    them. A document without a usable picture is rejected as ``no_media``, one without text as ``empty_answer``.
    """
    media = [piece for piece in pieces if isinstance(piece, MediaRef)]
    lost = [piece for piece in pieces if isinstance(piece, RejectedError)]
    chunks = _chunks(pieces)
    shown = sum(count for count, _ in chunks)
    if chunks:
        lost += [
            RejectedError("unpaired_media", f"{medium.origin}: no text of the document follows this picture")
            for medium in media[shown:]
        ]
    for fault in lost:
        yield spec.reject(fault.reason, place=place, id=id, detail=fault.detail, scope="media")
    try:
        if not chunks:
            raise RejectedError("empty_answer", "the document has no text")
        if not shown:
            none = f"the document has lost its {len(lost)} pictures" if lost else "the document has no picture"
            raise RejectedError("no_media", none)
        yield RawTriplet(
            id=id,
            place=place,
            media=tuple(media[:shown]),
            instruction="",
            answer="",
            meta=meta,
            parts=tuple((count, checked_text(between.join(texts), "the text of a chunk")) for count, texts in chunks),
        )
    except RejectedError as error:
        yield spec.reject(error.reason, place=place, id=id, detail=error.detail)


def _chunks(pieces: Sequence[Slot]) -> list[tuple[int, list[str]]]:
    """(number of pictures, texts that follow them) of each chunk; pictures after the last text are in none."""
    chunks: list[tuple[int, list[str]]] = []
    waiting = 0
    for piece in pieces:
        if isinstance(piece, MediaRef):
            waiting += 1
        elif isinstance(piece, str) and piece:
            if waiting or not chunks:
                chunks.append((waiting, []))
                waiting = 0
            chunks[-1][1].append(piece)
    return chunks
