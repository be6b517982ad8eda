"""Pictures without a model: their colours, where these lie, and which way their edges run.

It knows surface and no meaning: it finds pictures of the same palette, layout and outline - the same scene, drawings of
one hand, objects seen from the same side - and cannot tell that two different dogs are dogs. For that, give the build a
model. The descriptor is built from whole numbers (Pillow resizes in fixed point), so all machines agree on every bit.

Three parts, each a vector of length 1 times its weight, from a square of 64 pixels:

- layout: 8 x 8 cells of brightness and two opponent colours (red-green, blue-yellow), less their mean;
- colours: a histogram over 4 brightnesses x 6 x 6 opponent colours, of square roots (Hellinger), so that a large
  plain background does not drown the rest;
- edges: 8 directions in 8 x 8 cells, weighted by contrast, of square roots: histograms of oriented gradients (Dalal
  and Triggs 2005) with directions compared by whole numbers.

Cost: about 1 ms for a JPEG of 336 pixels, which is decoded at a quarter of its size.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["ClassicalPicture"]

_SIDE: Final = 64
_CELLS: Final = 8  # per side
_DIRECTIONS: Final = 8
_BRIGHTNESSES: Final = 4
_OPPONENTS: Final = 6
_LAYOUT_WEIGHT: Final = 0.5  # where things lie says less about what they are
_COLOUR_WEIGHT: Final = 1.0
_EDGE_WEIGHT: Final = 1.0


class ClassicalPicture:
    """Embeds pictures."""

    fingerprint: Final = "classical-picture/1"

    def embed(self, pictures: Sequence[bytes]) -> npt.NDArray[np.float64]:
        """float64[n, 848] for n stored pictures (JPEG, PNG or WebP files that are known to be sound)."""
        return np.stack([_descriptor(_square(picture)) for picture in pictures])


def _square(stored: bytes) -> npt.NDArray[np.int64]:
    """int64[64, 64, 3]: red, green, blue."""
    with Image.open(io.BytesIO(stored), formats=["JPEG", "PNG", "WEBP"]) as picture:
        picture.draft("RGB", (_SIDE, _SIDE))
        return np.asarray(picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.int64)


def _descriptor(rgb: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    red, green, blue = np.moveaxis(rgb, 2, 0)
    bright = 2 * red + 5 * green + blue  # of 8 * 255
    colour = np.stack([bright, 4 * (red - green), 2 * (red + green - 2 * blue)])
    cells = _in_cells(colour).sum(axis=(2, 4))
    layout = cells * _CELLS**2 - cells.sum(axis=(1, 2), keepdims=True)
    histograms = ((_colours(colour), _COLOUR_WEIGHT), (_edges(bright), _EDGE_WEIGHT))
    parts = [_LAYOUT_WEIGHT * _over(layout, np.square(layout).sum())]
    parts += [weight * _over(np.sqrt(histogram), histogram.sum()) for histogram, weight in histograms]
    return np.concatenate(parts)


def _over(values: npt.NDArray[Any], square: np.int64) -> npt.NDArray[np.float64]:
    """``values`` in a row, divided by their length, whose exact ``square`` is given."""
    direction: npt.NDArray[np.float64] = values.ravel() / math.sqrt(max(int(square), 1))
    return direction


def _in_cells(channels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[c, cell row, row, cell column, column] of [c, 64, 64]."""
    side = _SIDE // _CELLS
    return channels.reshape(-1, _CELLS, side, _CELLS, side)


def _colours(colour: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many pixels have each of 144 colours."""
    bright, red_green, blue_yellow = colour
    span = 8 * 255
    places = bright * _BRIGHTNESSES // (span + 1)
    for opponent in (red_green, blue_yellow):  # most pixels are nearly grey: finer steps there, by a square root
        root = np.sign(opponent) * np.sqrt(np.abs(opponent))
        place = np.clip((root / np.sqrt(span) + 1) / 2 * _OPPONENTS, 0, _OPPONENTS - 1).astype(np.int64)
        places = places * _OPPONENTS + place
    return np.bincount(places.ravel(), minlength=_BRIGHTNESSES * _OPPONENTS**2)


def _edges(bright: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[8 directions, 8, 8]: the contrast in each direction and cell."""
    framed = np.pad(bright, 1, mode="edge")
    across = framed[1:-1, 2:] - framed[1:-1, :-2]
    down = framed[2:, 1:-1] - framed[:-2, 1:-1]
    steep = np.abs(down) > np.abs(across)
    direction = (down < 0) * 4 + (across < 0) * 2 + steep
    contrast = np.abs(across) + np.abs(down)
    layers = np.where(direction == np.arange(_DIRECTIONS)[:, None, None], contrast, 0)
    contrasts: npt.NDArray[np.int64] = _in_cells(layers).sum(axis=(2, 4))
    return contrasts
