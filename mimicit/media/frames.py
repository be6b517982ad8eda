"""Which frames stand for a video, and videos that are published as a list of pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from mimicit.errors import RejectedError
from mimicit.media import EncodedMedia, MediaOptions
from mimicit.media.image import encode_image

SECONDS_DIGITS: Final = 6
"""Times are stored in whole microseconds."""


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """``wanted`` ascending indices below ``count``: the first, the last, and the nearest to equal steps between.

    All of them if there are fewer; the middle one if only one is wanted. (``numpy.linspace`` over both ends, as
    Video-LLaVA and similar models pick frames, but rounded, not truncated.)
    """
    if count <= wanted:
        return list(range(count))
    if wanted == 1:
        return [(count - 1) // 2]
    steps = wanted - 1
    return [(2 * step * (count - 1) + steps) // (2 * steps) for step in range(wanted)]


def encode_frames(
    pictures: Iterable[bytes], timestamps_s: Sequence[float], options: MediaOptions, *, duration_s: float | None = None
) -> EncodedMedia:
    """A video whose frames are the files ``pictures``, shown at ``timestamps_s`` (seconds, ascending, one each).

    ``pictures`` are consumed one at a time, so they need not all be in memory.

    ``options.frames`` of them are kept, evenly spaced, each stored as `encode_image` does; their times are kept as
    given. The duration is ``duration_s`` if the publisher states it, else the last time plus the mean interval (plus
    nothing for a single frame).

    `RejectedError` as `encode_image` for the kept frames, and: ``empty_media`` (no pictures), ``too_many_frames``,
    ``too_long``, ``bad_media`` (times that do not ascend from 0 or do not match the pictures in number, stored frames
    of different sizes).
    """
    _check_times(timestamps_s, duration_s, options)
    chosen = evenly_spaced(len(timestamps_s), options.frames)
    kept = set(chosen)
    count, stored = 0, []
    for data in pictures:
        if count in kept:
            stored.append(encode_image(data, options))
        count += 1
    if count != len(timestamps_s):
        raise RejectedError("bad_media", f"{count} frames but {len(timestamps_s)} timestamps")
    for index, frame in zip(chosen, stored, strict=True):
        if (frame.width, frame.height) != (stored[0].width, stored[0].height):
            sizes = f"{frame.width} x {frame.height}, frame {chosen[0]} {stored[0].width} x {stored[0].height}"
            raise RejectedError("bad_media", f"frames of one video must have one size; frame {index} is {sizes}")
    return EncodedMedia(
        kind="video",
        extension=options.image_format,
        files=tuple(frame.files[0] for frame in stored),
        width=stored[0].width,
        height=stored[0].height,
        original_width=stored[0].original_width,
        original_height=stored[0].original_height,
        timestamps_s=tuple(round(timestamps_s[index], SECONDS_DIGITS) for index in chosen),
        duration_s=round(_duration_s(timestamps_s) if duration_s is None else duration_s, SECONDS_DIGITS),
    )


def _check_times(timestamps_s: Sequence[float], duration_s: float | None, options: MediaOptions) -> None:
    frames = len(timestamps_s)
    if not frames:
        raise RejectedError("empty_media", "a video without frames")
    if frames > options.max_video_frames:
        raise RejectedError("too_many_frames", f"{frames:,} frames; the limit is {options.max_video_frames:,}")
    ascends = all(earlier < later for earlier, later in pairwise(timestamps_s))
    if not ascends or timestamps_s[0] < 0 or not math.isfinite(timestamps_s[-1]):
        raise RejectedError("bad_media", "the timestamps of the frames do not ascend from 0 or more")
    length_s = max(_duration_s(timestamps_s), duration_s or 0.0)
    if length_s > options.max_duration_s:
        raise RejectedError("too_long", f"{length_s:,.0f} s long; the limit is {options.max_duration_s:,.0f} s")


def _duration_s(timestamps_s: Sequence[float]) -> float:
    steps = len(timestamps_s) - 1
    interval_s = (timestamps_s[-1] - timestamps_s[0]) / steps if steps else 0.0
    return timestamps_s[-1] + interval_s
