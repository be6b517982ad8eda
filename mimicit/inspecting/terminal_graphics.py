"""The pictures of a sample in a terminal that draws pixels: by kitty's protocol, or as sixels (iTerm2, WezTerm, foot).

The library ``textual-image`` (extra ``terminal``) asks the terminal what it understands, which takes a terminal to read
the answer from, and writes it. Where it is not installed, or the terminal understands neither, there are the half
blocks of `mimicit.inspecting.pictures`.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final

from PIL import Image

from mimicit.inspecting.pictures import columns_of_each, thumbnails
from mimicit.records import Sample

__all__ = ["Graphics", "graphics_of_terminal"]

_SIDE: Final = 320  # pixels of a thumbnail, which the terminal's own resolution then decides
_PADDING: Final = 8


class Graphics:
    """Writes pictures to standard output by ``renderable``, one of those of ``textual_image``."""

    def __init__(self, renderable: Any) -> None:
        self._renderable = renderable

    def show(self, sample: Sample, columns: int) -> None:
        """Print all pictures of ``sample`` and the first frames of its clips, side by side under their numbers.

        One that is damaged is said to be so.
        """
        from rich.console import Console

        console = Console(file=sys.stdout, force_terminal=True, width=columns, highlight=False, markup=False)
        width, across = columns_of_each(columns)
        shown = list(thumbnails(sample, _SIDE))
        for start in range(0, len(shown), across):
            band = shown[start : start + across]
            console.print("".join(f"{label[: width - 1]:<{width}}" for label, _ in band).rstrip(), no_wrap=True)
            if any(picture is not None for _, picture in band):
                console.print(self._renderable(_side_by_side([picture for _, picture in band]), len(band) * width))


def graphics_of_terminal() -> Graphics | None:
    """How to draw on the terminal of this process, which is asked; None where it cannot, or nobody can ask it."""
    for stream, own in ((sys.stdin, sys.__stdin__), (sys.stdout, sys.__stdout__)):
        if own is None or stream is not own or not own.isatty():
            return None
    logging.getLogger("textual_image").addHandler(logging.NullHandler())  # what it does not know, it assumes
    try:
        if not os.get_terminal_size().columns:  # it would divide by that
            return None
        from textual_image import renderable  # it asks while it is imported
    except (ImportError, OSError):
        return None
    drawn = (renderable.SixelImage, renderable.TGPImage)
    return Graphics(renderable.Image) if renderable.Image in drawn else None


def _side_by_side(pictures: list[Image.Image | None]) -> Image.Image:
    """The pictures in boxes of one size, so that the labels above, of one width, stand where they begin."""
    height = max(picture.height for picture in pictures if picture is not None)
    sheet = Image.new("RGBA", ((_SIDE + _PADDING) * len(pictures), height))
    for place, picture in enumerate(pictures):
        if picture is not None:
            sheet.paste(picture, (place * (_SIDE + _PADDING), 0))
    return sheet
