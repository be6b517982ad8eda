"""All pictures and frames of one sample side by side, as a PNG to look at."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw

from mimicit.records import Sample
from mimicit.shards.files import write_atomically

__all__ = ["write_sheet"]

_GAP = 8  # pixels
_LABEL = 14


def write_sheet(sample: Sample, path: Path) -> None:
    """Write the sheet: one row per medium, frames left to right, each row under its number and kind."""
    rows = [[Image.open(io.BytesIO(data)).convert("RGB") for data in media.data] for media in sample.media]
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
