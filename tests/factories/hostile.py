"""Small files that ask for much: written by hand, header by header, so that making them costs nothing."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.factories.media import encoded, png_chunk, scene

Payload = bytes | Callable[[bytes], bytes]

_PARENTS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl"))


# Pictures


def gif_of_many_frames(frames: int) -> bytes:
    """A GIF of 1 x 1 pixel, 15 bytes a frame."""
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HH", 1, 1) + b"\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def png_with(*chunks: bytes) -> bytes:
    """A sound PNG with more chunks in front of its pixels."""
    data = encoded(scene(), "PNG")
    place = data.index(b"IDAT") - 4
    return data[:place] + b"".join(chunks) + data[place:]


def apng_of_many_frames(frames: int) -> bytes:
    """A PNG that says it is an animation of so many frames."""
    return png_with(png_chunk(b"acTL", struct.pack(">II", frames, 0)))


def text_bomb() -> bytes:
    """A PNG whose compressed text is 100 MB long."""
    return png_with(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 1)))


def profile_bomb() -> bytes:
    """A PNG whose colour profile is 100 MB long."""
    return png_with(png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000), 1)))


def exif_bomb(fields: int = 60_000, size: int = 200_000) -> bytes:
    """A PNG with so many EXIF fields, each with the same ``size`` bytes for its value: 12 GB in 1 MB."""
    values_at = 8 + 2 + 12 * fields + 4
    entries = b"".join(struct.pack(">HHII", tag, 1, size, values_at) for tag in range(fields))
    exif = b"MM\0*" + struct.pack(">IH", 8, fields) + entries + bytes(4) + bytes(size)
    return png_with(png_chunk(b"eXIf", exif))


def vast_jpeg(side: int = 65_500) -> bytes:
    """A JPEG whose header promises ``side`` x ``side`` pixels."""
    data = bytearray(encoded(scene(), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def vast_webp(side: int = 16_383) -> bytes:
    """An animated WebP whose canvas has ``side`` x ``side`` pixels."""
    data = bytearray(encoded(scene(), "WEBP", save_all=True, append_images=[scene().rotate(180)]))
    place = data.index(b"VP8X") + 12
    data[place : place + 6] = (side - 1).to_bytes(3, "little") * 2
    return bytes(data)


def vast_bitmap(side: int = 9_900) -> bytes:
    """A PNG of ``side`` x ``side`` pixels with one bit each: 100 kB that take 98 MB."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 1)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def png_of_many_chunks(chunks: int) -> bytes:
    """A small, sound PNG with so many chunks that mean nothing: 12 bytes each, and some microseconds to skip."""
    data = encoded(scene(), "PNG")
    begin = 8 + 25  # the signature and IHDR
    return data[:begin] + png_chunk(b"vpAg", b"") * chunks + data[begin:]


# Clips


def with_boxes(data: bytes, payloads: Mapping[bytes, Payload], without: frozenset[bytes] = frozenset()) -> bytes:
    """The MP4 ``data`` with other payloads in the boxes of these names, and ``without`` those."""
    return b"".join(
        struct.pack(">I", 8 + len(body)) + name + body
        for name, body in (_changed(name, body, payloads, without) for name, body in _boxes(data))
        if name not in without
    )


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], data[place + 8 : place + size]
        place += size


def _changed(
    name: bytes, body: bytes, payloads: Mapping[bytes, Payload], without: frozenset[bytes]
) -> tuple[bytes, bytes]:
    payload = payloads.get(name)
    if payload is not None:
        return name, payload if isinstance(payload, bytes) else payload(body)
    return name, with_boxes(body, payloads, without) if name in _PARENTS else body


def mp4_of_many_frames(data: bytes, frames: int) -> bytes:
    """The MP4 ``data`` with tables that list ``frames`` frames of one byte, in a few bytes."""
    tables = {
        b"stsz": struct.pack(">III", 0, 1, frames),
        b"stsc": struct.pack(">IIIII", 0, 1, 1, frames, 1),
        b"stts": struct.pack(">IIII", 0, 1, frames, 1),
    }
    return with_boxes(data, tables, frozenset((b"ctts", b"stss", b"edts")))


def mp4_that_claims(data: bytes, seconds: int) -> bytes:
    """The MP4 ``data`` whose headers and time table say that it lasts so long."""

    def claim(body: bytes) -> bytes:
        return body[:16] + struct.pack(">I", seconds * int.from_bytes(body[12:16], "big")) + body[20:]

    def spread(body: bytes) -> bytes:
        count = int.from_bytes(body[8:12], "big")
        return struct.pack(">IIII", 0, 1, count, seconds * 12_800 // count)

    return with_boxes(data, {b"mvhd": claim, b"mdhd": claim, b"stts": spread}, frozenset((b"edts",)))


def mp4_of_absurd_boxes(data: bytes) -> bytes:
    """The MP4 ``data`` whose tables are said to hold four thousand million entries."""
    return with_boxes(data, {name: struct.pack(">II", 0, 0xFFFFFFFF) for name in (b"stts", b"stsc", b"stco")})


# Archives and text


def zip_bomb(path: Path, megabytes: int) -> Path:
    """A ``.zip`` with one file of so many megabytes of spaces."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(path.name.removesuffix(".zip"), "w", force_zip64=True) as member,
    ):
        for _ in range(megabytes):
            member.write(b" " * 1_000_000)
    return path


def tar_of_many_members(path: Path, members: int) -> Path:
    """A tar of empty files, 512 bytes each, two to a sample."""
    info = tarfile.TarInfo("0000000.jpg")
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    with path.open("wb") as file:
        buffer = io.BytesIO()
        for number in range(members):
            block[:11] = b"%07d.%s" % (number // 2, (b"jpg", b"txt")[number % 2])
            block[148:156] = b"        "
            block[148:156] = b"%06o\0 " % sum(block)
            buffer.write(block)
            if buffer.tell() > 1 << 22:
                file.write(buffer.getvalue())
                buffer = io.BytesIO()
        file.write(buffer.getvalue() + bytes(1024))
    return path


def nested(depth: int) -> str:
    """A JSON array in an array in an array."""
    return "[" * depth + "]" * depth
