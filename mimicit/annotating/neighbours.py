"""Which records are most like each other, so that a recipe can put them beside each other before the model.

By their words (hashed, see `mimicit.embedding.hashed_text`) or by their first picture. All of a stretch of 65,536
records are compared, a minute or two of one core; beyond, each with those of its own stretch. The arithmetic is exact:
every machine finds the same neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mimicit.annotating.pictures import Pictures
from mimicit.annotating.records import Record
from mimicit.embedding.classical_picture import ClassicalPicture
from mimicit.embedding.hashed_text import HashedText
from mimicit.embedding.vectors import NOTHING, nearest, quantise
from mimicit.errors import RejectedError

__all__ = ["plain_words", "similar_by_picture", "similar_by_words"]

_STRETCH: Final = 65_536
_BLOCK: Final = 1_024


def plain_words(record: Record) -> str:
    """What is known of ``record``, a line each; empty where nothing is."""
    pairs = (f"- {question} {answer}" for question, answer in record.pairs)
    return "\n".join(
        [
            *(f"- {caption}" for caption in record.captions),
            *pairs,
            *(f"- there is: {box.label}" for box in record.boxes),
            *(f"- {moment.start_s:.1f} s: {moment.text}" for moment in record.moments),
        ]
    )


def similar_by_words(words: Iterable[str], count: int) -> list[tuple[int, ...]]:
    """For each of ``words`` the numbers of the ``count`` others most like it, nearest first; none for an empty one."""
    found: list[tuple[int, ...]] = []
    for stretch in _stretches(words, _STRETCH):
        embedder = HashedText(stretch)
        blocks = [quantise(embedder.embed(block)) for block in _stretches(stretch, _BLOCK)]
        found += _nearest(np.concatenate(blocks), count, len(found))
    return found


async def similar_by_picture(records: Iterable[Record | None], pictures: Pictures, count: int) -> list[tuple[int, ...]]:
    """The same by the first picture or frame of each; none for a record without one."""
    found: list[tuple[int, ...]] = []
    embedder = ClassicalPicture()
    for stretch in _stretches(records, _STRETCH):
        vectors = []
        for record in stretch:
            try:
                shown = await pictures.of(record.media[:1]) if record is not None else []
            except RejectedError:  # it is rejected for that when it is asked about
                shown = []
            vectors.append(embedder.embed([shown[0][1]])[0] if shown else None)
        width = next((len(vector) for vector in vectors if vector is not None), 1)
        rows = [np.zeros(width) if vector is None else vector for vector in vectors]
        found += _nearest(quantise(np.array(rows)), count, len(found))
    return found


def _nearest(vectors: npt.NDArray[Any], count: int, first: int) -> Iterator[tuple[int, ...]]:
    says_something = np.abs(vectors).max(axis=1, initial=0)
    for rows in _stretches(range(len(vectors)), _BLOCK):
        numbers = nearest(vectors, np.array(rows, np.uint32), count)
        for row, others in zip(rows, numbers, strict=True):
            real = (int(other) for other in others if other != NOTHING and says_something[other])
            yield tuple(first + other for other in real) if says_something[row] else ()


def _stretches(values: Iterable[Any], size: int) -> Iterator[Sequence[Any]]:
    stretch: list[Any] = []
    for value in values:
        stretch.append(value)
        if len(stretch) == size:
            yield stretch
            stretch = []
    if stretch:
        yield stretch
