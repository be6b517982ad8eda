"""Instructions for pictures and clips that come with a caption only: a fixed pool, picked by a hash of the id.

The pools are part of what a build promises: a change here changes the shards of every caption source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from mimicit.errors import RejectedError
from mimicit.prompt import CLIP_CAPTIONS, PICTURE_CAPTIONS
from mimicit.sources.items import MediaRef, RawTriplet
from mimicit.sources.records.text import checked_answer, checked_instruction, checked_meta


def caption_instruction(id: str, media: Sequence[MediaRef]) -> str:
    """The instruction of the pool for the record ``id``; always the same for the same id."""
    pool = CLIP_CAPTIONS if any(medium.kind == "video" for medium in media) else PICTURE_CAPTIONS
    digest = hashlib.blake2b(id.encode(), digest_size=8).digest()
    return pool[int.from_bytes(digest, "big") % len(pool)]


def instruction_or_caption(value: object, id: str, media: Sequence[MediaRef]) -> str:
    """``value`` as a checked instruction; if it is absent or empty, an instruction to caption ``media``.

    `RejectedError` as `checked_instruction`, or ``malformed`` if there is neither an instruction nor a medium.
    """
    text = "" if value is None else checked_instruction(value)
    if text:
        return text
    if not media:
        raise RejectedError("malformed", "there is neither an instruction nor a picture or clip to describe")
    return caption_instruction(id, media)


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
