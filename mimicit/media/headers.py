"""What a file declares, read without decoding: frames of an animation, scans of a JPEG, the end of a
picture, the length of a clip.

- Only the first frame of an animation is ever used, so its length costs nothing; but a picture of thousands of frames
  is a clip in the wrong place, or an attack, and is refused.
- A progressive JPEG comes in scans, and each costs a pass over the whole picture, however few bytes it has: 3,000 of
  them in a file of 270 kB take 90 s. Encoders write about ten.
- ffmpeg reads a truncated clip to its end without an error, so half of it would pass for the whole. Matroska (WebM),
  fragmented MP4 and AVI state how long their parts are; only those lengths are read, some bytes for each part. Streams
  that declare no length (MPEG-TS, MPEG-PS, Ogg, FLV) may begin and end anywhere: what is whole in them is the clip.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image

from mimicit.errors import RejectedError

MAX_FRAMES: Final = 10_000
"""The longest animation that still passes for a picture."""

_GIF_HEADER_BYTES: Final = 13
_GIF_EXTENSION: Final = 0x21
_GIF_FRAME: Final = 0x2C
_GIF_FRAME_BYTES: Final = 10


def check_frames(picture: Image.Image, data: bytes) -> None:
    """`RejectedError` (``too_many_frames``) if the open ``picture``, read from ``data``, has more than `MAX_FRAMES`."""
    if picture.format == "GIF":
        frames = gif_frames(data, MAX_FRAMES)  # Pillow would look at all of them
    elif picture.format == "TIFF":
        return  # pages, linked like a list; only the first is ever read
    else:
        frames = getattr(picture, "n_frames", 1)
    if frames > MAX_FRAMES:
        raise RejectedError("too_many_frames", f"an animation of more than {MAX_FRAMES:,} frames; store it as a clip")


def gif_frames(data: bytes, most: int) -> int:
    """The number of frames of the GIF ``data``; counting stops above ``most``, and where the file is cut or invalid."""
    count = 0
    place = _GIF_HEADER_BYTES + _table_bytes(data, _GIF_HEADER_BYTES - 3)
    while count <= most and place < len(data):
        if data[place] == _GIF_EXTENSION:
            place += 2
        elif data[place] == _GIF_FRAME:
            count += 1
            place += _GIF_FRAME_BYTES + _table_bytes(data, place + _GIF_FRAME_BYTES - 1) + 1
        else:
            break
        while place < len(data) and data[place]:  # blocks, each with its length in front, up to an empty one
            place += 1 + data[place]
        place += 1
    return count


def _table_bytes(data: bytes, flags_at: int) -> int:
    """The size of the colour table that the flags at ``flags_at`` announce."""
    flags = data[flags_at] if flags_at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


MAX_SCANS: Final = 100
"""The most scans of a JPEG that is decoded; a hundred over 100 million pixels take some 10 s."""

_SCAN: Final = b"\xff\xda"
_END: Final = 0xD9
_WITHOUT_LENGTH: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_NEXT_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in a scan, FF 00 is a byte and FF D0 to D7 a restart


def check_scans(data: bytes) -> None:
    """`RejectedError` (``too_many_scans``) if the JPEG ``data`` has more than `MAX_SCANS`."""
    scans = count_scans(data)
    if scans > MAX_SCANS:
        raise RejectedError("too_many_scans", f"a JPEG of {scans:,} scans; the limit is {MAX_SCANS}")


def count_scans(data: bytes) -> int:
    """The number of scans of the first picture in the JPEG ``data``; up to `MAX_SCANS`, maybe a few too many."""
    most = data.count(_SCAN)
    if most <= MAX_SCANS:  # more only by chance, in what follows the picture or in its metadata
        return most
    scans = 0
    for kind, _ in _segments(data):
        if kind == _END:
            break
        scans += kind == _SCAN[1]
    return scans


def is_cut(data: bytes, format: str) -> bool:
    """Whether the picture ``data`` of ``format`` lacks its end, by its marks alone."""
    match format:
        case "jpeg":  # segments before the scan may hold whole pictures; phones put clips and more after the end
            start = next((start for kind, start in _segments(data) if kind == _SCAN[1]), len(data))
            return data.find(bytes((0xFF, _END)), start) < 0  # the mark cannot stand inside of what is compressed
        case "png":
            return data.rfind(b"IEND") < 0
        case "webp":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return False


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(kind, place) of the markers of a JPEG, but for those without a length."""
    place = 2
    while (marker := _NEXT_MARKER.search(data, place)) is not None:
        kind, place = data[marker.start() + 1], marker.end()
        if kind not in _WITHOUT_LENGTH:
            yield kind, marker.start()
            place += int.from_bytes(data[place : place + 2], "big")


_MAX_PARTS: Final = 4_000_000  # a frame each, in a recording whose clusters have no lengths
_SEGMENT: Final = 0x18538067
_CLUSTER: Final = 0x1F43B675
_UNKNOWN_RIFF: Final = (0, 0xFFFFFFFF)  # written by programs that could not go back to fill it in

_Part = tuple[str, int]
"""The name of a part of the file, and the place in the file at which it must end."""


def check_length(path: Path, format: str) -> None:
    """`RejectedError` (``undecodable_video``) if the file of ``format`` ends before a part that it declares."""
    parts = _PARTS.get(format)
    if parts is None:
        return
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for _, (name, end) in zip(range(_MAX_PARTS), parts(file), strict=False):
            if end > size:
                detail = f"the file ends early: its {name} goes on to byte {end:,}, and {size:,} bytes are there"
                raise RejectedError("undecodable_video", detail)


def _matroska_parts(file: BinaryIO) -> Iterator[_Part]:
    """The segment or, if it was recorded without a length, the elements inside."""
    place = 0
    while header := _ebml_header(file, place):
        id, place, length = header
        if length is None:
            if id not in (_SEGMENT, _CLUSTER):
                return  # nothing else may leave its length open
        else:
            place += length
            yield ("segment" if id == _SEGMENT else "last element"), place
            if id == _SEGMENT:
                return  # what follows is not part of the clip


def _ebml_header(file: BinaryIO, place: int) -> tuple[int, int, int | None] | None:
    """(id, where its content begins, bytes of content or None if not stated); None at the end of the file."""
    file.seek(place)
    head = file.read(12)
    id_size = _vint_size(head)
    length_size = _vint_size(head[id_size:]) if id_size else 0
    if not length_size or id_size > 4 or len(head) < id_size + length_size:
        return None
    bits = 7 * length_size
    length = int.from_bytes(head[id_size : id_size + length_size], "big") & ((1 << bits) - 1)
    is_unknown = length == (1 << bits) - 1
    return int.from_bytes(head[:id_size], "big"), place + id_size + length_size, None if is_unknown else length


def _vint_size(data: bytes) -> int:
    """How many bytes the number takes that ``data`` begins with: one more than its leading zero bits; 0: no number."""
    return 9 - data[0].bit_length() if data and data[0] else 0


def _fragment_parts(file: BinaryIO) -> Iterator[_Part]:
    """The boxes of an MP4 from its first fragment on; the index of one without fragments lists its frames itself."""
    place, has_fragments = 0, False
    while len(head := _at(file, place, 16)) >= 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:
            return  # 0: to the end of the file, whatever that is
        has_fragments = has_fragments or kind == b"moof"
        place += size
        if has_fragments and kind in (b"moof", b"mdat"):
            yield f"{kind.decode()} box", place


def _riff_parts(file: BinaryIO) -> Iterator[_Part]:
    """The RIFF chunks of an AVI: one, or several if it has over a gigabyte."""
    place = 0
    while (head := _at(file, place, 8))[:4] == b"RIFF" and len(head) == 8:
        length = int.from_bytes(head[4:], "little")
        if length in _UNKNOWN_RIFF:
            return
        place += 8 + length + length % 2
        yield "RIFF chunk", place - length % 2


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


_PARTS: Final[dict[str, Callable[[BinaryIO], Iterator[_Part]]]] = {
    "avi": _riff_parts,
    "matroska": _matroska_parts,
    "mp4": _fragment_parts,
}
