"""How many frames an animated picture has, found without decoding one.

Only the first frame of an animation is ever used, so its length costs nothing; but a picture of thousands of frames is
a clip in the wrong place, or made to hurt, and is refused.
"""

from __future__ import annotations

from typing import Final

from PIL import Image

from mimicit.errors import RejectedError

__all__ = ["MAX_FRAMES", "check_frames", "gif_frames"]

MAX_FRAMES: Final = 10_000
"""The longest animation that still passes for a picture."""

_GIF_HEADER_BYTES: Final = 13
_GIF_EXTENSION: Final = 0x21
_GIF_FRAME: Final = 0x2C
_GIF_FRAME_BYTES: Final = 10


def check_frames(picture: Image.Image, data: bytes) -> None:
    """`RejectedError` (``too_many_frames``) where the open ``picture``, read from ``data``, has above `MAX_FRAMES`."""
    if picture.format == "GIF":
        frames = gif_frames(data, MAX_FRAMES)  # Pillow would look at all of them
    elif picture.format == "TIFF":
        return  # pages, linked like a list; only the first is ever read
    else:
        frames = getattr(picture, "n_frames", 1)
    if frames > MAX_FRAMES:
        raise RejectedError("too_many_frames", f"an animation of more than {MAX_FRAMES:,} frames; store it as a clip")


def gif_frames(data: bytes, most: int) -> int:
    """The frames of the GIF ``data``; counting stops above ``most``, and where the file is cut or makes no sense."""
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
