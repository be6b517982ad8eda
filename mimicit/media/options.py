"""What the build does to pictures and clips: the options, the limits, and the result of encoding one medium."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mimicit.records import MediaKind

__all__ = ["EncodedMedia", "ImageFormat", "MediaOptions", "VideoReader"]

ImageFormat = Literal["jpg", "png", "webp"]
VideoReader = Literal["av", "decord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaOptions:
    """How media are stored, and what is refused before it is decoded.

    ``size`` limits the longest side in pixels (0: no limit); ``frames`` is the number of frames taken from a clip;
    ``quality`` is that of JPEG and WebP. ``max_pixels`` limits one picture or frame as stored in the input,
    ``max_memory_bytes`` what decoding one medium may allocate, and ``max_seconds`` the CPU time that it may take beyond
    what the number of its pixels explains (see `mimicit.media.bounds`). ``video_reader`` reads
    plain clips (see `mimicit.media.video`); "decord" keeps the damaged ones among them, as players do.
    """

    size: int = 336
    frames: int = 8
    image_format: ImageFormat = "jpg"
    quality: int = 90
    max_pixels: int = 100_000_000
    max_duration_s: float = 6 * 3600.0
    max_video_frames: int = 2_000_000
    max_memory_bytes: int = 2 << 30
    max_seconds: int = 30
    video_reader: VideoReader = "av"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedMedia:
    """One medium as it is stored: the bytes of each file, all of one size in pixels and one format.

    ``original_width`` and ``original_height`` are square pixels in the input, before it was shrunk or turned upright
    (of a video made of pictures, those of its first frame).
    """

    kind: MediaKind
    extension: ImageFormat
    files: tuple[bytes, ...]
    width: int
    height: int
    original_width: int
    original_height: int
    timestamps_s: tuple[float, ...] | None = None
    duration_s: float | None = None
