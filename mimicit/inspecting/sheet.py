"""All pictures and frames of one sample side by side, as a PNG to look at."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw

from mimicit.records import Media, Sample
from mimicit.shards.files import write_atomically
from mimicit.stored_picture import decode_stored

__all__ = ["write_sheet"]

_GAP = 8  # pixels
_LABEL = 14
_LONGEST = 2048
_MOST_PIXELS = 64 << 20


def write_sheet(sample: Sample, path: Path) -> None:
    """Write the sheet: one row per medium, frames left to right, each row under its number and kind.

    Large pictures are shrunk, as far as the sheet of all of them needs. Errors as `decode_stored`.
    """
    rows = [[_shown(data, media, _longest(sample)) for data in media.data] for media in sample.media]
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


def _longest(sample: Sample) -> int:
    """The longest side, in pixels, that each picture may have for the sheet not to become too large."""
    longest = _LONGEST
    widest = max((len(media.files) for media in sample.media), default=1)
    while longest > 1 and longest * widest * longest * len(sample.media) > _MOST_PIXELS:
        longest //= 2
    return longest


def _shown(data: bytes, media: Media, longest: int) -> Image.Image:
    picture = decode_stored(data, media.width, media.height).convert("RGB")
    picture.thumbnail((longest, longest))
    return picture
