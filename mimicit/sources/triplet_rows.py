"""From the fields of one record to a `RawTriplet`: what a manifest row and a JSON sidecar have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mimicit.sources.base import MediaRef, RawTriplet
from mimicit.sources.captions import instruction_or_caption
from mimicit.sources.text import answer_of, checked_ids, checked_meta

__all__ = ["TRIPLET_FIELDS", "free_fields", "triplet_from_row"]

TRIPLET_FIELDS: Final = frozenset({"id", "instruction", "answer", "related", "meta"})


def triplet_from_row(row: Mapping[str, Any], *, id: str, place: str, media: tuple[MediaRef, ...]) -> RawTriplet:
    """The triplet ``id`` of the fields ``instruction``, ``answer``, ``related``, ``query`` and ``meta`` of ``row``.

    Without an instruction, the answer is taken for a caption. ``query`` counts where it is true or false, and any
    other field goes to ``meta`` (see `free_fields`). Raises `RejectedError`.
    """
    return RawTriplet(
        id=id,
        place=place,
        media=media,
        instruction=instruction_or_caption(row.get("instruction"), id, media),
        answer=answer_of(row),
        related=checked_ids(row.get("related"), "related"),
        is_query=row.get("query") is not False,
        meta=free_fields(row),
    )


def free_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``row`` that are not those of a triplet, beside the entries of the field ``meta`` itself, which
    yield to a field of the same name. Raises `RejectedError`.
    """
    meta = row.get("meta")
    free = dict(meta) if isinstance(meta, dict) else {"meta": meta} if meta is not None else {}
    for key, value in row.items():
        is_flag = key == "query" and isinstance(value, bool)
        if key not in TRIPLET_FIELDS and not is_flag and value is not None:
            free[key] = value
    return checked_meta(free)
