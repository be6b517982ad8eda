"""Which files are pictures or clips by their names, and how records write the times of a clip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final, TypeGuard

from mimicit.errors import RejectedError
from mimicit.media.sniff import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from mimicit.records import MediaKind
from mimicit.sources.records.text import shown

# These cannot be decoded; they are still pictures, and the build rejects them as unsupported by name.
_PICTURES: Final = IMAGE_EXTENSIONS | {".jp2", ".jxl", ".pgm", ".ppm", ".svg"}


DEFAULT_RATE: Final = 1.0
"""Frames per second of a clip in frames, if its record does not say: the rate of MIMIC-IT's own clips."""

_MAX_RATE: Final = 1000.0


@lru_cache(1 << 12)
def named_kind(path: str) -> MediaKind | None:
    """The kind of medium by the extension of the file, or None if that is of no medium."""
    name = path.rpartition("/")[2]
    if name in ("", "."):
        name = PurePosixPath(path).name
    dot = name.rfind(".")
    suffix = name[dot:].lower() if dot > 0 else ""
    if suffix in _PICTURES:
        return "image"
    return "video" if suffix in VIDEO_EXTENSIONS else None


def folder_of(path: str) -> str:
    """The folder that holds ``path``, relative to the root; empty for the root itself."""
    return path.rpartition("/")[0]


def frame_rate(fields: Mapping[str, object]) -> float:
    """The frames per second in the field ``fps``, or the default; `RejectedError` if it is no number in range."""
    rate = fields.get("fps")
    if rate is None:
        return DEFAULT_RATE
    if not _is_time(rate) or not 0 < rate <= _MAX_RATE:
        raise RejectedError("malformed", f"fps must be a number of frames per second, not {shown(rate)}")
    return float(rate)


def clip_times(clip: Mapping[str, object], frames: int) -> tuple[tuple[float, ...], float | None]:
    """(times of the ``frames``, duration) in seconds, from ``timestamps_s``, or else ``fps``, and ``duration_s``.

    `RejectedError` ``malformed`` if there is not a time for each frame, or the clip ends before its last frame.
    """
    times, duration = clip.get("timestamps_s"), clip.get("duration_s")
    if times is None and clip.get("fps") is not None:
        rate = frame_rate(clip)
        times = [frame / rate for frame in range(frames)]
    if not isinstance(times, list) or len(times) != frames or not all(map(_is_time, times)):
        raise RejectedError("malformed", f"a clip of {frames} frames needs as many timestamps_s, in seconds, or fps")
    if duration is None:
        return tuple(map(float, times)), None
    if not _is_time(duration) or duration < times[-1]:
        raise RejectedError(
            "malformed", f"duration_s must be seconds, to the last frame or beyond, not {shown(duration)}"
        )
    return tuple(map(float, times)), float(duration)


def _is_time(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
