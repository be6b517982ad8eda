"""Embedders that need no model: pictures by their colours and edges, texts by their words.

`ClassicalPicture` describes colours, where these lie, and which way edges run. It knows surface, not meaning: it finds
pictures of the same palette, layout and outline - the same scene, drawings of one hand, objects seen from the same side
- and cannot tell that two different dogs are dogs. For that, give the build a model. The descriptor is built from whole
numbers (Pillow resizes in fixed point), so all machines agree on every bit.

Three parts, each a vector of length 1 times its weight, from a square of 64 pixels:

- layout: 8 x 8 cells of brightness and two opponent colours (red-green, blue-yellow), less their mean;
- colours: a histogram over 4 brightnesses x 6 x 6 opponent colours, of square roots (Hellinger), so that a large
  plain background does not drown the rest;
- edges: 8 directions in 8 x 8 cells, weighted by contrast, of square roots: histograms of oriented gradients (Dalal
  and Triggs 2005) with directions compared by whole numbers.

Cost: about 1 ms for a JPEG of 336 pixels, which is decoded at a quarter of its size.

`HashedText` counts words, pairs of words and pieces of words, rare ones weighing more. It knows spelling, not meaning:
*cat* is near *cats* and as far from *kitten* as from *lorry*. Good for finding the same kind of question, or captions
with the same nouns, in any language; for more, give the build a model. Every number is whole and small, so all machines
agree on every bit.

A text is lowered (NFKC, casefold) and hashed as words, pairs of adjacent words, and runs of 3 and 4 characters of
`` word ``; each distinct piece adds its weight, with a sign of its own, to one of 512 components (feature hashing,
Weinberger et al. 2009). The weight is the number of binary digits of the piece's rarity in a sample of the texts: an
inverse document frequency. Cost: about 20 µs for a question, in either of the two passes.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

_SIDE: Final = 64
_CELLS: Final = 8  # per side
_DIRECTIONS: Final = 8
_BRIGHTNESSES: Final = 4
_OPPONENTS: Final = 6
_LAYOUT_WEIGHT: Final = 0.5  # where things lie says less about what they are
_COLOUR_WEIGHT: Final = 1.0
_EDGE_WEIGHT: Final = 1.0

_COMPONENTS: Final = 512
_BUCKETS: Final = 1 << 18  # in which pieces are counted
_CHARACTERS: Final = 2_000  # of a text that are looked at
_RUNS: Final = (3, 4)
_WORD_WEIGHT: Final = 4  # a word has about 2 pieces per character; so words and pieces count about the same
# Chinese and Japanese do not write words apart: each of their characters counts as a word, and two as a pair.
_UNSPACED: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD: Final = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
_FACTOR: Final = np.uint64(0x9E37_79B9_7F4A_7C15)  # odd, so it has an inverse modulo 2**64
_INVERSE: Final = np.uint64(pow(int(_FACTOR), -1, 1 << 64))

_Pieces = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]


class ClassicalPicture:
    """Embeds pictures."""

    fingerprint: Final = "classical-picture/1"

    def embed(self, pictures: Sequence[bytes]) -> npt.NDArray[np.float64]:
        """float64[n, 848] for n stored pictures (JPEG, PNG or WebP files that are known to be sound)."""
        return np.stack([_descriptor(_square(picture)) for picture in pictures])


class HashedText:
    """Embeds texts; ``sample`` are texts of the set, by which the weight of each piece is measured."""

    def __init__(self, sample: Sequence[str] = ()) -> None:
        counts = np.zeros(_BUCKETS, np.int64)
        for start in range(0, len(sample), 4096):
            batch, hashes, _ = _pieces(sample[start : start + 4096])
            buckets = (hashes % _BUCKETS).astype(np.int64)
            distinct = np.unique(batch * _BUCKETS + buckets) % _BUCKETS
            counts += np.bincount(distinct, minlength=_BUCKETS)
        rarity = max(1, len(sample)) // np.maximum(counts, 1)
        self._weights = np.frexp(rarity)[1].astype(np.uint8)  # the number of binary digits
        self.fingerprint = f"hashed-text/1 {hashlib.sha256(self._weights.tobytes()).hexdigest()}"

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """int64[n, 512] for n texts; a text without a letter or digit is all zeros."""
        number, hashes, factor = _pieces(texts)
        weights = factor * self._weights[(hashes % _BUCKETS).astype(np.int64)].astype(np.int64)
        signed = np.where(hashes >> np.uint64(63), weights, -weights)
        places = number * _COMPONENTS + ((hashes >> np.uint64(40)) % _COMPONENTS).astype(np.int64)
        sums = np.bincount(places, signed, len(texts) * _COMPONENTS)  # float64 holds these sums exactly
        return sums.astype(np.int64).reshape(len(texts), _COMPONENTS)


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


def _pieces(texts: Sequence[str]) -> _Pieces:
    """The distinct pieces of all texts: number of the text, 64-bit hash, and how much more than a run it weighs."""
    words = [_WORD.findall(unicodedata.normalize("NFKC", text[:_CHARACTERS]).casefold()) for text in texts]
    joined = "".join(f" {word} " for found in words for word in found)
    text_of_word = np.repeat(np.arange(len(texts)), [len(found) for found in words])
    lengths = np.array([len(word) + 2 for found in words for word in found], np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    hashed = _Spans(joined)
    parts = [(text_of_word, hashed.of(starts, ends), _WORD_WEIGHT)]
    pairs = np.flatnonzero(text_of_word[1:] == text_of_word[:-1])
    parts.append((text_of_word[pairs], hashed.of(starts[pairs], ends[pairs + 1]), _WORD_WEIGHT // 2))
    for run in _RUNS:
        counts = np.maximum(lengths - run, 0)  # the whole of " ab " is that word itself
        word = np.repeat(np.arange(len(lengths)), counts)
        begin = starts[word] + np.arange(len(word)) - np.repeat(np.cumsum(counts) - counts, counts)
        parts.append((text_of_word[word], hashed.of(begin, begin + run), 1))
    number = np.concatenate([part[0] for part in parts]).astype(np.int64)
    hashes = np.concatenate([part[1] for part in parts])
    factor = np.concatenate([np.full(len(part[0]), part[2], np.int64) for part in parts])
    _, first = np.unique(_mixed(hashes + number.astype(np.uint64) * _FACTOR), return_index=True)
    return number[first], hashes[first], factor[first]


class _Spans:
    """Hashes of any spans of a text: polynomials modulo 2**64 over its code points, from prefix sums."""

    def __init__(self, text: str) -> None:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64) + np.uint64(1)
        powers = _powers(_FACTOR, len(points))
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(points * powers)])
        self._back = _powers(_INVERSE, len(points) + 1)

    def of(self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        return _mixed((self._sums[ends] - self._sums[starts]) * self._back[starts])


def _powers(factor: np.uint64, count: int) -> npt.NDArray[np.uint64]:
    """1, factor, factor squared, ... modulo 2**64."""
    powers = np.full(count, factor, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Every bit of the result depends on every bit of ``values`` (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return values ^ (values >> np.uint64(31))
