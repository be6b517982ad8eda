"""Pictures and clips: probe the header, decode within limits, shrink, encode.

Here: the options with their limits, and the result of encoding one medium.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mimicit.options import option
from mimicit.records import MediaKind

__all__ = ["EncodedMedia", "ImageFormat", "MediaOptions", "VideoReader"]

ImageFormat = Literal["jpg", "png", "webp"]
VideoReader = Literal["av", "decord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaOptions:
    """How media are stored, and what is refused before it is decoded (see `mimicit.media.bounds`)."""

    size: int = option(336, "Longest side of stored pictures in pixels; 0 keeps every size.", least=0)
    frames: int = option(8, "Frames per clip, evenly spaced.", least=1)
    image_format: ImageFormat = option("jpg", "Format of stored pictures and frames.")
    quality: int = option(90, "Quality of stored JPEG and WebP pictures.", least=1, most=100)
    max_pixels: int = option(100_000_000, "Pixels of a picture or frame, at most; larger ones stay unread.", least=1)
    max_duration_s: float = 6 * 3600.0
    max_video_frames: int = 2_000_000
    max_memory_bytes: int = option(
        2 << 30, "Memory to decode a picture or clip, in bytes.", least=64 << 20, most=1 << 40, flag=False
    )
    max_seconds: int = option(
        30, "CPU seconds for a picture or clip, beyond what its size explains.", least=1, most=1_000_000
    )
    video_reader: VideoReader = option("av", "Library that reads clips; decord keeps damaged ones, as players do.")


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
