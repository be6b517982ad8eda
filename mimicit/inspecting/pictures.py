"""The pictures of a sample to look at: side by side as a PNG, or in a terminal.

In a terminal each character is a half block, whose two colours are two pixels one above the other. This takes 24-bit
colour and UTF-8, which nearly all terminals have. A thumbnail of 24 columns is about 10 kB of text.

A terminal that draws pixels (kitty's protocol, or sixels: iTerm2, WezTerm, foot) shows the pictures themselves. The
library ``textual-image`` (extra ``terminal``) asks the terminal what it understands, so standard input must be one too,
and writes that. If it is not installed, or the terminal understands neither, half blocks are used.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, TextIO

from PIL import Image, ImageDraw

from mimicit.errors import CorruptShardError
from mimicit.notebook import decode_stored
from mimicit.records import Media, Sample
from mimicit.shards.files import write_atomically

_GAP = 8  # pixels
_LABEL = 14
_LONGEST = 2048
_MOST_PIXELS = 64 << 20

_UPPER_HALF: Final = "▀"
_RESET: Final = "\x1b[0m"
_LEAST: Final = 24  # columns of a thumbnail, which is half as many lines high
_MOST: Final = 40
_ACROSS: Final = 3  # thumbnails side by side, as many as the usual sample has
_BETWEEN: Final = 2
_FRAMES: Final = 3  # of a clip

_SIDE: Final = 320  # pixels of a thumbnail, before it is scaled to the terminal's resolution
_PADDING: Final = 8


def write_sheet(sample: Sample, path: Path) -> None:
    """Write the sheet: one row per medium, frames left to right, each row under its number and kind.

    Large pictures are shrunk so far that the sheet does not become too large. Errors as `decode_stored`, with the
    sample and the file.
    """
    longest = _longest(sample)
    rows = [
        [_decoded_frame(sample, media, frame, longest) for frame in range(len(media.data))] for media in sample.media
    ]
    width = max((sum(p.width + _GAP for p in row) for row in rows), default=160) + _GAP
    height = sum(max(p.height for p in row) + _GAP + _LABEL for row in rows) + _GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for number, (row, media) in enumerate(zip(rows, sample.media, strict=True)):
        draw.text((_GAP, top), f"media[{number}] {media.kind}", fill="black")
        left = _GAP
        for picture in row:
            sheet.paste(picture, (left, top + _LABEL))
            left += picture.width + _GAP
        top += max(picture.height for picture in row) + _GAP + _LABEL
    data = io.BytesIO()
    sheet.save(data, "PNG")
    write_atomically(path, [data.getvalue()])


def shows_blocks(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``stream`` is a terminal that says it has 24-bit colour (``COLORTERM``), and colour is not forbidden.

    ``NO_COLOR`` forbids it, as https://no-color.org/ has it.
    """
    has_colours = environment.get("COLORTERM", "").lower() in ("truecolor", "24bit") and not environment.get("NO_COLOR")
    return has_colours and stream.isatty() and (stream.encoding or "").lower().replace("-", "") == "utf8"


def half_blocks(picture: Image.Image) -> list[str]:
    """The RGB ``picture`` as lines of half blocks, a column for each pixel and a line for each two rows of them.

    If the number of rows is odd, the last stands above the terminal's own background.
    """
    values = picture.tobytes()
    pixels = [values[start : start + 3] for start in range(0, len(values), 3)]
    rows = [pixels[start : start + picture.width] for start in range(0, len(pixels), picture.width)]
    if len(rows) % 2:
        rows.append([b""] * picture.width)
    return ["".join(map(_cell, above, below)) + _RESET for above, below in zip(rows[::2], rows[1::2], strict=True)]


def sample_blocks(sample: Sample, columns: int) -> str:
    """All pictures of ``sample``, and the first frames of its clips, small and side by side in ``columns``.

    Each stands under its number, which says if it is damaged. The text is empty if there are none.
    """
    shown = list(_thumbnails(sample, _MOST))
    width, across = _columns_of_each(columns)
    lines: list[str] = []
    for start in range(0, len(shown), across):
        band = [(f"{label[:width]:<{width}}", picture) for label, picture in shown[start : start + across]]
        lines.append((" " * _BETWEEN).join(label for label, _ in band).rstrip())
        blocks = [_padded(picture, width) for _, picture in band]
        lines += ((" " * _BETWEEN).join(cells).rstrip() for cells in zip_longest(*blocks, fillvalue=" " * width))
    return "\n".join(lines)


class Graphics:
    """Writes pictures to standard output by ``renderable``, a class of ``textual_image``."""

    def __init__(self, renderable: Any) -> None:
        self._renderable = renderable

    def show(self, sample: Sample, columns: int) -> None:
        """Print all pictures of ``sample`` and the first frames of its clips, side by side under their numbers.

        The label says if one is damaged.
        """
        from rich.console import Console

        console = Console(file=sys.stdout, force_terminal=True, width=columns, highlight=False, markup=False)
        width, across = _columns_of_each(columns)
        shown = list(_thumbnails(sample, _SIDE))
        for start in range(0, len(shown), across):
            band = shown[start : start + across]
            console.print("".join(f"{label[: width - 1]:<{width}}" for label, _ in band).rstrip(), no_wrap=True)
            if any(picture is not None for _, picture in band):
                console.print(self._renderable(_side_by_side([picture for _, picture in band]), len(band) * width))


def graphics_of_terminal() -> Graphics | None:
    """How to draw on the terminal of this process, which is queried; None if it cannot draw, or be queried."""
    for stream, own in ((sys.stdin, sys.__stdin__), (sys.stdout, sys.__stdout__)):
        if own is None or stream is not own or not own.isatty():
            return None
    logging.getLogger("textual_image").addHandler(logging.NullHandler())  # silent: what it cannot find out, it assumes
    try:
        if not os.get_terminal_size().columns:  # it would divide by zero
            return None
        from textual_image import renderable  # it queries the terminal while it is imported
    except (ImportError, OSError):
        return None
    drawn = (renderable.SixelImage, renderable.TGPImage)
    return Graphics(renderable.Image) if renderable.Image in drawn else None


def _longest(sample: Sample) -> int:
    """The longest side, in pixels, that each picture may have for the sheet not to become too large."""
    longest = _LONGEST
    widest = max((len(media.files) for media in sample.media), default=1)
    while longest > 1 and longest * widest * longest * len(sample.media) > _MOST_PIXELS:
        longest //= 2
    return longest


def _decoded_frame(sample: Sample, media: Media, frame: int, longest: int) -> Image.Image:
    try:
        picture = decode_stored(media.data[frame], media.width, media.height).convert("RGB")
    except CorruptShardError as error:
        raise CorruptShardError(f"{sample.id}: {media.files[frame]}: {error}") from None
    picture.thumbnail((longest, longest))
    return picture


def _columns_of_each(columns: int) -> tuple[int, int]:
    """The width of a picture in a terminal of this many ``columns``, and how many pictures stand side by side."""
    width = max(1, min(columns, max(_LEAST, min(_MOST, (columns + _BETWEEN) // _ACROSS - _BETWEEN))))
    return width, max(1, (columns + _BETWEEN) // (width + _BETWEEN))


def _thumbnails(sample: Sample, side: int) -> Iterator[tuple[str, Image.Image | None]]:
    """(label, picture in RGB) of all pictures and of the first frames of each clip, at most ``side`` pixels long.

    A damaged picture is None, and its label says so.
    """
    for number, media in enumerate(sample.media):
        for frame, data in enumerate(media.data[:_FRAMES]):
            label = f"media[{number}]" if media.kind == "image" else f"media[{number}] frame {frame + 1}"
            try:
                picture = decode_stored(data, media.width, media.height).convert("RGB")
            except CorruptShardError:
                yield f"{label}: damaged", None
            else:
                picture.thumbnail((side, side))
                yield label, picture


def _cell(upper: bytes, lower: bytes) -> str:
    ground = f"48;2;{lower[0]};{lower[1]};{lower[2]}" if lower else "49"
    return f"\x1b[38;2;{upper[0]};{upper[1]};{upper[2]};{ground}m{_UPPER_HALF}"


def _padded(picture: Image.Image | None, width: int) -> list[str]:
    if picture is None:
        return []
    picture.thumbnail((width, width))
    return [line + " " * (width - picture.width) for line in half_blocks(picture)]


def _side_by_side(pictures: list[Image.Image | None]) -> Image.Image:
    """The pictures in boxes of one size, so that the labels above, of one width, stand where they begin."""
    height = max(picture.height for picture in pictures if picture is not None)
    sheet = Image.new("RGBA", ((_SIDE + _PADDING) * len(pictures), height))
    for place, picture in enumerate(pictures):
        if picture is not None:
            sheet.paste(picture, (place * (_SIDE + _PADDING), 0))
    return sheet
