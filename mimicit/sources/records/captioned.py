"""From a picture or clip and its caption to a `RawTriplet`: what all formats of captions have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mimicit.sources.items import MediaRef, RawTriplet
from mimicit.sources.records.captions import caption_instruction
from mimicit.sources.records.text import checked_answer, checked_meta

__all__ = ["captioned"]


def captioned(caption: object, *, id: str, place: str, media: MediaRef, meta: Mapping[str, Any]) -> RawTriplet:
    """The triplet whose answer is ``caption``, with an instruction of the fixed pool. Raises `RejectedError`."""
    return RawTriplet(
        id=id,
        place=place,
        media=(media,),
        instruction=caption_instruction(id, (media,)),
        answer=checked_answer(caption),
        meta=checked_meta(meta),
    )
