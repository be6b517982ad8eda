"""From the fields of one record to a `RawTriplet`: what a manifest row and a JSON sidecar have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mimicit.sources.base import MediaRef, RawTriplet
from mimicit.sources.captions import instruction_or_caption
from mimicit.sources.text import answer_of, checked_ids, checked_meta

__all__ = ["TRIPLET_FIELDS", "triplet_from_row"]

TRIPLET_FIELDS: Final = frozenset({"id", "instruction", "answer", "related", "meta"})


def triplet_from_row(row: Mapping[str, Any], *, id: str, place: str, media: tuple[MediaRef, ...]) -> RawTriplet:
    """The triplet ``id`` of the fields ``instruction``, ``answer``, ``related`` and ``meta`` of ``row``.

    Without an instruction, the answer is taken for a caption. All other fields go to ``meta``, beside the entries
    of the field ``meta`` itself, which yield to a field of the same name. Raises `RejectedError`.
    """
    meta = row.get("meta")
    free = dict(meta) if isinstance(meta, dict) else {"meta": meta} if meta is not None else {}
    free.update((key, value) for key, value in row.items() if key not in TRIPLET_FIELDS and value is not None)
    return RawTriplet(
        id=id,
        place=place,
        media=media,
        instruction=instruction_or_caption(row.get("instruction"), id, media),
        answer=answer_of(row),
        related=checked_ids(row.get("related"), "related"),
        meta=checked_meta(free),
    )
