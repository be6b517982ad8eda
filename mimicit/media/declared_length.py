"""Whether a clip's file is as long as its container declares: a download or copy that broke off is not.

ffmpeg reads such a file to its end without a word, so half of a clip would pass for the whole. Matroska (WebM),
fragmented MP4 and AVI say how long their parts are; only those lengths are read here, some bytes for each part. Streams
that declare no length (MPEG-TS, MPEG-PS, Ogg, FLV) may begin and end anywhere: what is whole in them is the clip.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from mimicit.errors import RejectedError

__all__ = ["check_length"]

_MAX_PARTS: Final = 4_000_000  # a frame each, in a recording whose clusters have no lengths
_SEGMENT: Final = 0x18538067
_CLUSTER: Final = 0x1F43B675
_UNKNOWN_RIFF: Final = (0, 0xFFFFFFFF)  # written by programs that could not go back to fill it in

_Part = tuple[str, int]
"""The name of a part of the file, and the place in the file at which it must end."""


def check_length(path: Path, format: str) -> None:
    """`RejectedError` (``undecodable_video``) where the file of ``format`` ends before a part that it declares."""
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
    """The segment and, where it was recorded without a length, what lies inside."""
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
                return  # what follows the clip is none of it


def _ebml_header(file: BinaryIO, place: int) -> tuple[int, int, int | None] | None:
    """(id, where its content begins, bytes of content or None where they are not said); None at the end of the file."""
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
    """The RIFF chunks of an AVI: one, and more where it has over a gigabyte."""
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
