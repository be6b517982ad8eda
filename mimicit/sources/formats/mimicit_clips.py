"""What MIMIC-IT itself cannot say of clips, as ``mimicit export --to mimicit`` adds it to an instruction.

::

    "image_ids": ["IMG_a", "DC_IMG_b_0000", "DC_IMG_b_0001"],
    "mimicit_clips": [{"first": 1, "frames": 2, "timestamps_s": [0.0, 0.4], "duration_s": 0.8}]

Each entry makes one clip of ``frames`` consecutive ``image_ids``, from the index ``first`` on; all other ids are
pictures. Readers that do not know the field take the ids as published sets have them (see `mimicit_ids.media_of`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.files.media_names import clip_times
from mimicit.sources.formats.mimicit_ids import media_of
from mimicit.sources.items import MediaRef
from mimicit.sources.records.text import shown

__all__ = ["CLIPS", "media_with_clips"]

CLIPS: Final = "mimicit_clips"


def media_with_clips(ids: Sequence[str], clips: object) -> tuple[MediaRef, ...]:
    """The media that ``ids`` name, given the field `CLIPS`; `RejectedError` ``malformed`` where it does not fit."""
    if not isinstance(clips, list):
        raise RejectedError("malformed", f"{CLIPS} must be a list, not {shown(clips)}")
    pictures = media_of(ids, is_clip=False)
    media: list[MediaRef] = []
    end = 0
    for number, clip in enumerate(clips):
        first, count = _span(clip, number, after=end, ids=len(ids))
        times_s, duration_s = clip_times(clip, count)
        frames = pictures[first : first + count]
        media += pictures[end:first]
        media.append(
            MediaRef(
                kind="video",
                parts=tuple(frame.parts[0] for frame in frames),
                origin=ids[first].rpartition("_")[0] or ids[first],
                timestamps_s=times_s,
                duration_s=duration_s,
            )
        )
        end = first + count
    return (*media, *pictures[end:])


def _span(clip: Any, number: int, *, after: int, ids: int) -> tuple[int, int]:
    """Which ids the clip takes: the index of the first, and how many."""
    match clip:
        case {"first": int(first), "frames": int(count)} if not isinstance(first, bool) and not isinstance(count, bool):
            pass
        case _:
            raise RejectedError("malformed", f"{CLIPS}[{number}] must have 'first' and 'frames', both whole numbers")
    if first < after or count < 1 or first + count > ids:
        detail = f"{CLIPS}[{number}] takes {count} ids from {first} on, of {ids} with {after} taken"
        raise RejectedError("malformed", detail)
    return first, count
