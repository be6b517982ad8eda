"""Instructions for pictures and clips that come with a caption only: a fixed pool, picked by a hash of the id.

The pools are part of what a build promises: a change here changes the shards of every caption source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.items import MediaRef, RawTriplet
from mimicit.sources.records.text import checked_answer, checked_instruction, checked_meta

__all__ = ["caption_instruction", "captioned", "instruction_or_caption", "is_caption_instruction"]

_PICTURE: Final = (
    "Describe this picture.",
    "What does this picture show?",
    "Write a caption for this picture.",
    "What can be seen here?",
    "Give a short description of the picture.",
    "Say in a sentence what is in the picture.",
    "How would you caption this picture?",
    "Tell me what you see in the picture.",
)
_CLIP: Final = (
    "Describe this video.",
    "What happens in this video?",
    "Write a caption for this video.",
    "What can be seen in this clip?",
    "Give a short description of the video.",
    "Say in a sentence what happens in the clip.",
    "How would you caption this video?",
    "Tell me what you see in the video.",
)


def caption_instruction(id: str, media: Sequence[MediaRef]) -> str:
    """The instruction of the pool that the record ``id`` gets; the same for the same id, always."""
    pool = _CLIP if any(medium.kind == "video" for medium in media) else _PICTURE
    digest = hashlib.blake2b(id.encode(), digest_size=8).digest()
    return pool[int.from_bytes(digest, "big") % len(pool)]


def is_caption_instruction(text: str) -> bool:
    """Whether ``text`` is one of the pool, all of which ask the same."""
    return text in _PICTURE or text in _CLIP


def instruction_or_caption(value: object, id: str, media: Sequence[MediaRef]) -> str:
    """``value`` as a checked instruction; where it is absent or empty, one for a caption of ``media``.

    `RejectedError` as `checked_instruction`, or ``malformed`` where there is neither an instruction nor a medium.
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
