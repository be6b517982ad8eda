"""Which files are pictures or clips, and how a path in a record becomes a `MediaRef`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final, TypeGuard

from mimicit.errors import RejectedError
from mimicit.media.sniff import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from mimicit.records import MediaKind
from mimicit.sources.base import InFile, MediaRef
from mimicit.sources.frame_folders import DEFAULT_RATE, frames_of_folder
from mimicit.sources.root import Root
from mimicit.sources.text import shown

__all__ = ["clip_times", "folder_of", "frame_rate", "media_refs", "named_kind"]

# These cannot be decoded; they are still pictures, and the build rejects them as unsupported by name.
_PICTURES: Final = IMAGE_EXTENSIONS | {".jp2", ".jxl", ".pgm", ".ppm", ".svg"}


_MAX_RATE: Final = 1000.0


def named_kind(path: str) -> MediaKind | None:
    """The kind of medium that the name of the file says, or None if it says none."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _PICTURES:
        return "image"
    return "video" if suffix in VIDEO_EXTENSIONS else None


def folder_of(path: str) -> str:
    """The folder that holds ``path``, relative to the root; empty for the root itself."""
    return path.rpartition("/")[0]


def media_refs(
    root: Root, paths: Iterable[object], *, beside: Sequence[str], kind: MediaKind | None = None
) -> tuple[MediaRef, ...]:
    """The media that a record names by ``paths``, relative to the folders ``beside`` (see `Root.resolve`).

    Without a ``kind``, a name that does not say it is a clip is taken for a picture. A clip may also be given by
    the folder of its frames (see `mimicit.sources.frame_folders`), or by ``{"frames": [paths], "timestamps_s":
    [seconds], "duration_s": seconds}``, of which the last may be absent, and ``"fps"`` may stand for the times; there,
    ``"frames"`` may be a folder, too. `RejectedError` as `Root.resolve`, or ``malformed`` where a path is not text.
    """
    refs = []
    for path in paths:
        if isinstance(path, dict):
            refs.append(_frames_ref(root, path, beside))
            continue
        if not isinstance(path, str):
            raise RejectedError("malformed", f"a medium must be named by its path, not {shown(path)}")
        refs.append(_ref(root, path, beside, kind))
    return tuple(refs)


def _ref(root: Root, path: str, beside: Sequence[str], kind: MediaKind | None) -> MediaRef:
    try:
        clean = root.resolve(path, beside=beside)
    except RejectedError as error:
        folder = frames_of_folder(root, path, beside=beside) if kind != "image" else None
        if error.reason != "missing_file" or folder is None:
            raise
        return folder
    return MediaRef(kind=kind or named_kind(clean) or "image", parts=(InFile(clean),), origin=clean)


def _frames_ref(root: Root, clip: Mapping[str, object], beside: Sequence[str]) -> MediaRef:
    frames = clip.get("frames")
    if isinstance(frames, str):
        folder = frames_of_folder(root, frames, beside=beside, frames_per_second=frame_rate(clip))
        if folder is None:
            raise RejectedError("missing_file", f"{frames!r} is no folder of numbered pictures in the source folder")
        return folder
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, str) for frame in frames):
        raise RejectedError("malformed", f"the frames of a clip must be a list of paths, not {shown(frames)}")
    times_s, duration_s = clip_times(clip, len(frames))
    parts = tuple(InFile(root.resolve(frame, beside=beside)) for frame in frames)
    return MediaRef(kind="video", parts=parts, origin=parts[0].path, timestamps_s=times_s, duration_s=duration_s)


def frame_rate(fields: Mapping[str, object]) -> float:
    """What the field ``fps`` says of the frames of a clip, per second; `RejectedError` where it is no such number."""
    rate = fields.get("fps")
    if rate is None:
        return DEFAULT_RATE
    if not _is_time(rate) or not 0 < rate <= _MAX_RATE:
        raise RejectedError("malformed", f"fps must be a number of frames per second, not {shown(rate)}")
    return float(rate)


def clip_times(clip: Mapping[str, object], frames: int) -> tuple[tuple[float, ...], float | None]:
    """What the fields ``timestamps_s``, or else ``fps``, and ``duration_s`` say of a clip of so many ``frames``.

    `RejectedError` ``malformed`` where there is not a time for each frame, or the clip ends before its last frame.
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
