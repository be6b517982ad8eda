"""Opening a clip with ffmpeg (PyAV) as if it were hostile: limits first, no other file, one kind of error.

The demuxer is forced to the one that belongs to the file's first bytes, so a playlist or a concat script that is
named ``a.mp4`` cannot make ffmpeg open other files or addresses. PyAV's logging is off unless somebody turns it on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mimicit.errors import RejectedError, UsageError
from mimicit.media import MediaOptions
from mimicit.media.bounds import out_of_memory
from mimicit.media.image_file import check_pixels
from mimicit.media.sniff import HEAD_BYTES, looks_like, sniff

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_DEMUXERS: Final = {
    "asf": "asf",
    "avi": "avi",
    "flv": "flv",
    "gif": "gif",
    "matroska": "matroska",
    "mp4": "mov",
    "mpeg": "mpeg",
    "mpegts": "mpegts",
    "ogg": "ogg",
}
_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoHeader:
    """What the header of a clip says.

    ``format`` is one of ``asf avi flv gif matroska mp4 mpeg mpegts ogg``, ``codec`` ffmpeg's name; ``width`` and
    ``height`` are pixels as stored, before any rotation. ``frames``, ``duration_s`` and ``bits`` (per colour
    channel) are None if the header does not say. ``video_streams`` counts cover pictures too.
    """

    format: str
    codec: str
    width: int
    height: int
    frames: int | None
    duration_s: float | None
    bits: int | None
    video_streams: int


@dataclass(frozen=True, slots=True)
class Clip:
    """An open clip: the container, its first stream of moving pictures, and the header; valid inside `open_clip`."""

    container: InputContainer
    stream: VideoStream
    header: VideoHeader


def check_pyav() -> None:
    """`UsageError` unless PyAV is installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        raise UsageError("clips take PyAV: pip install 'mimicit[video]'") from None


@contextmanager
def open_clip(path: Path, options: MediaOptions) -> Iterator[Clip]:
    """The clip at ``path``, opened and within the limits of ``options``, to be decoded by one thread.

    The decoder raises on damaged data. (What it would otherwise make up, as players do, depends on where decoding
    began, and on what its buffers held.) What ffmpeg raises inside the ``with`` block becomes `RejectedError`
    (``undecodable_video``), too.

    `RejectedError` also with reason ``missing_file``, ``empty_media``, ``unsupported_media`` (not a known container),
    ``undecodable_video`` (damaged, without a video stream, no decoder), ``too_many_pixels``, ``too_many_frames``,
    ``too_long`` or ``too_much_memory``. `UsageError` if PyAV is not installed.
    """
    check_pyav()
    import av  # takes 0.1 s, and only clips need it

    format = _format_of(path)
    # Frames can be larger than the container says. ffmpeg takes no larger number, and fails for one.
    limits = {"max_pixels": str(min(options.max_pixels, 2**31 - 1))}
    try:
        with av.open(
            os.path.abspath(path),  # a plain path: never read as ``protocol:...``
            format=_DEMUXERS[format],
            options={**limits, "threads": "1", "protocol_whitelist": "file"},
            metadata_errors="replace",
        ) as container:
            stream = _moving_pictures(container)
            header = _header(container, stream, format)
            _check_limits(header, options)
            stream.codec_context.options = {**limits, "err_detect": "explode"}
            stream.codec_context.thread_count = 1
            stream.codec_context.thread_type = "NONE"
            yield Clip(container, stream, header)
    except MemoryError:  # ffmpeg's is one, too
        raise out_of_memory(options) from None
    except (av.FFmpegError, LookupError, OverflowError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RejectedError("undecodable_video", f"the {format} file cannot be decoded ({words})") from None


def _format_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise RejectedError("missing_file", f"{path} cannot be read ({error})") from None
    if not head:
        raise RejectedError("empty_media", "0 bytes")
    format = sniff(head)
    if format not in _DEMUXERS:
        raise RejectedError("unsupported_media", f"looks like {looks_like(head)}, not like a clip that can be read")
    return format


def _moving_pictures(container: InputContainer) -> VideoStream:
    """The first video stream that is not a cover picture."""
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    for stream in container.streams.video:
        if not stream.disposition & covers:
            if stream.codec_context is None:
                raise RejectedError("undecodable_video", "the video stream has a codec without a decoder")
            return stream
    kinds = ", ".join(
        sorted({"cover picture" if stream.type == "video" else stream.type for stream in container.streams})
    )
    raise RejectedError("undecodable_video", f"no video stream, only: {kinds or 'nothing'}")


def _header(container: InputContainer, stream: VideoStream, format: str) -> VideoHeader:
    duration_s: float | None = None
    if stream.duration is not None and stream.time_base is not None:
        duration_s = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration_s = container.duration / _MICROSECONDS
    context = stream.codec_context
    return VideoHeader(
        format=format,
        codec=context.codec.name,
        width=context.width,
        height=context.height,
        frames=stream.frames or None,
        duration_s=duration_s,
        bits=max((part.bits for part in context.format.components), default=None) if context.format else None,
        video_streams=len(container.streams.video),
    )


def _check_limits(header: VideoHeader, options: MediaOptions) -> None:
    if header.width < 1 or header.height < 1:
        raise RejectedError("undecodable_video", f"no picture was found in the {header.codec} stream")
    check_pixels(header.width, header.height, options)
    if header.duration_s is not None and header.duration_s > options.max_duration_s:
        detail = f"{header.duration_s:,.0f} s long; the limit is {options.max_duration_s:,.0f} s"
        raise RejectedError("too_long", detail)
    if header.frames is not None and header.frames > options.max_video_frames:
        detail = f"{header.frames:,} frames; the limit is {options.max_video_frames:,}"
        raise RejectedError("too_many_frames", detail)
