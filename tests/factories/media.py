"""Pictures of every mode and clips of every kind, made the same way each time; and the truth to compare them with."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageCms

Array = np.ndarray[Any, np.dtype[np.uint8]]

# The orientations of EXIF: how to store an upright picture so that the tag turns it upright again.
STORED_FOR = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
# The same eight as display matrices (a, b, c, d) of a clip.
MATRIX_FOR = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
BITS = 8


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """A smooth picture without any symmetry: no turned or mirrored copy looks like it."""
    corners = np.array([[[250, 20, 20], [20, 250, 20]], [[20, 20, 250], [240, 240, 120]]], dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def pixels(data: bytes) -> Array:
    """The pixels of a stored file, which must be RGB."""
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def difference(left: Array, right: Array) -> float:
    """Mean absolute difference of two pictures of one size."""
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


def oriented(picture: Image.Image, format: str, orientation: int) -> bytes:
    """``picture`` stored turned, with the EXIF tag that turns it back."""
    method = STORED_FOR[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture.copy() if method is None else picture.transpose(method)
    if format == "HEIF":  # whose own way is a property of the picture; it is made of the tag that the picture has
        stored.info["exif"] = exif.tobytes()
        return encoded(stored, format)
    return encoded(stored, format, exif=exif)


def swapped_profile() -> bytes:
    """An ICC profile whose red primary is sRGB's green and the other way round."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = data.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    return data.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def vast_png(side: int = 30_000, idat_bytes: int = 1_000_000) -> bytes:
    """A PNG whose header promises ``side`` x ``side`` RGB pixels, with the first ``idat_bytes`` of them."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(idat_bytes))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def numbered(number: int, width: int, height: int) -> Array:
    """A frame that shows its own number: a gradient above, and below it a row of black and white bits."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(40, 215, width)[None, :]
    frame[..., 1] = np.linspace(215, 40, height)[:, None]
    frame[..., 2] = 60 + number % 100
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        frame[height // 2 :, left:right] = 255 * (number >> bit & 1)
    return frame


def number_of(frame: Array) -> int:
    """The number that a frame of `numbered` shows."""
    height, width, _ = frame.shape
    row = frame[height // 2 + height // 4].mean(axis=1)
    return sum(1 << bit for bit in range(BITS) if row[(2 * bit + 1) * width // (2 * BITS)] > 127)


def write_clip(
    path: Path,
    frames: int = 40,
    *,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    rate: int = 25,
    times: Sequence[int] | None = None,
    pixel_format: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    sample_aspect_ratio: Fraction | None = None,
) -> Path:
    """A clip of numbered frames; ``times`` (in frame intervals) makes its rate vary."""
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.thread_count = 1
        if sample_aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if times is not None:
            stream.codec_context.time_base = Fraction(1, rate)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def x264(**options: object) -> dict[str, str]:
    return {"preset": "fast", "x264-params": ":".join(f"{key}={value}" for key, value in options.items())}


def write_sound(path: Path) -> Path:
    """A file with sound and no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        for start in range(0, 16_000, 1_024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1_024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display matrix into the track header of an MP4."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def set_display_width(path: Path, width: int) -> Path:
    """Write a width in square pixels into a WebM of `write_clip`, at the cost of the duration of its frames."""
    data = path.read_bytes()
    place = data.index(b"\x23\xe3\x83\x84")  # DefaultDuration, 8 bytes; behind it Video, with 6 bytes of content
    video = data[place + 10 : place + 16]
    assert data[place + 8 : place + 11] == b"\xe0\x86\xb0"
    widened = b"\xe0\x8e" + video + b"\x54\xb0\x82" + struct.pack(">H", width) + b"\xec\x81\0"
    path.write_bytes(data[:place] + widened + data[place + 16 :])
    return path


def hide_start(path: Path, ticks: int) -> Path:
    """Let the edit list of an MP4 begin ``ticks`` later, as a cut without re-encoding does."""
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 4 + 4 + 4 + 4  # version and flags, count, duration; then the media time
    (media_time,) = struct.unpack_from(">i", data, place)
    struct.pack_into(">i", data, place, media_time + ticks)
    path.write_bytes(data)
    return path


def copy_from_key(source: Path, target: Path, number: int) -> Path:
    """What a cut without re-encoding at the key frame ``number`` leaves, in a container without edit lists."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        keys = 0
        for packet in old.demux(stream):
            keys += packet.is_keyframe
            if keys > number and packet.size:
                packet.stream = copy
                new.mux(packet)
    return target


def all_frames(path: Path) -> list[tuple[float, Array]]:
    """Every whole frame of a full sequential decode: seconds since the first one, and its pixels as stored."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        decoded = [
            (frame.pts, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream) if not frame.is_corrupt
        ]
        return [(round(float((pts - decoded[0][0]) * stream.time_base), 6), picture) for pts, picture in decoded]


def recompressed(data: bytes) -> bytes:
    """The picture ``data`` smaller, and as a JPEG of low quality."""
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((80, 60)).save(out, "JPEG", quality=50)
    return out.getvalue()
