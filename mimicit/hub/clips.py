"""The frames of a clip as one MP4 file: the stored pictures one after the other with their times, not encoded again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

from PIL import Image

from mimicit.errors import UsageError
from mimicit.media.clip_file import check_pyav
from mimicit.records import Media, Sample
from mimicit.sample_table import VIDEOS, embedded_pictures, row_of_sample

_TICKS: Final = 1_000_000  # a second
_KINDS: Final = ((b"\xff\xd8\xff", "mjpeg", "yuvj420p"), (b"\x89PNG", "png", "rgb24"))


def embedded_row(sample: Sample, *, videos: bool) -> dict[str, Any]:
    """The row of ``sample`` with the bytes of its pictures, and with ``videos`` those of its clips as files."""
    row = row_of_sample(sample, embedded_pictures(sample))
    if videos:
        row[VIDEOS] = [
            {
                "bytes": clip_file(media.data, media.timestamps_s or (), media.duration_s or 0.0),
                "path": clip_name(media),
            }
            for media in sample.media
            if media.kind == "video"
        ]
    return row


def clip_name(media: Media) -> str:
    """The name of a clip's file, which identifies its content: a digest of its frames, and times in microseconds."""
    times = (*(media.timestamps_s or ()), media.duration_s or 0.0)
    return f"{_frames_digest(media.sha256)}-{','.join(str(round(time_s * _TICKS)) for time_s in times)}.mp4"


def named_clip(name: str, frames: Sequence[bytes]) -> bytes | None:
    """The file of a clip from its ``frames`` and the ``name`` that `clip_name` gave it; None if the frames differ."""
    digest, _, times = name.removesuffix(".mp4").partition("-")
    if _frames_digest([hashlib.sha256(frame).hexdigest() for frame in frames]) != digest:
        return None
    *starts, end = (int(ticks) / _TICKS for ticks in times.split(","))
    return clip_file(frames, starts, end)


def _frames_digest(sha256: Sequence[str]) -> str:
    """SHA-256 over the hexadecimal ``sha256`` of the frames."""
    return hashlib.sha256("".join(sha256).encode()).hexdigest()


def clip_file(frames: Sequence[bytes], timestamps_s: Sequence[float], duration_s: float) -> bytes:
    """Motion JPEG (or PNG) in MP4: ``frames`` are its packets, byte by byte, at ``timestamps_s`` to a microsecond.

    The last frame lasts until ``duration_s``. `UsageError` if frames are neither JPEG nor PNG: MP4 holds no WebP.
    """
    check_pyav()
    import av  # takes a tenth of a second, and only such files need it

    kind = next((kind for kind in _KINDS if frames[0].startswith(kind[0])), None)
    if kind is None:
        raise UsageError("videos: clips of WebP frames fit no MP4; build with --image-format jpg, or use their frames")
    ticks: list[int] = []
    for time_s in timestamps_s:
        ticks.append(max(round(time_s * _TICKS), ticks[-1] + 1 if ticks else 0))
    ends = [*ticks[1:], max(round(duration_s * _TICKS), ticks[-1] + 1)]
    file = io.BytesIO()
    with Image.open(io.BytesIO(frames[0])) as first, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(kind[1], rate=_TICKS)
        stream.width, stream.height = first.size
        stream.pix_fmt = kind[2]
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        for data, start, end in zip(frames, ticks, ends, strict=True):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, _TICKS)
            packet.pts = packet.dts = start
            packet.duration, packet.is_keyframe = end - start, True
            container.mux(packet)
    return file.getvalue()
