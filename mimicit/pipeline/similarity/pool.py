"""The neighbours of a query: maps the numbers that `mimicit.pipeline.similarity.search` found to triplets.

A text that many triplets share gives its triplets in the order of the input, from the query's place on and then from
the first, so that the queries with that text do not all get its first triplets. Cost: an indexed look-up per text or
picture that the choice walks, and it stops when it has enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mimicit.context.candidates import By
from mimicit.embedding.vectors import NOTHING, cosines
from mimicit.pipeline.similarity.tables import Kind, lent_row, mapped, open_tables

TABLES_NAME: Final = "tables.sqlite"
_TRIPLETS_PER_ITEM: Final = 16  # at most, of one text or picture
_CANDIDATES_PER_KIND: Final = 64  # ranked against each other if both kinds count
_DECIMALS: Final = 4
_NO_ROW: Final = 1 << 62


def similar_folder(work: Path) -> Path:
    """The folder of all files about neighbours."""
    return work / "similar"


def vectors_path(work: Path, kind: Kind) -> Path:
    """int8[numbers, d]: the vectors of ``kind``."""
    return similar_folder(work) / f"{kind}-vectors.npy"


def neighbours_path(work: Path, kind: Kind) -> Path:
    """uint32[numbers, k]: the neighbours of each number of ``kind``, nearest first."""
    return similar_folder(work) / f"{kind}-neighbours.npy"


class Marks(NamedTuple):
    """What is compared to find duplicates of a triplet; see `mimicit.context.candidates.Likeness`."""

    question: int
    answer: int
    sentence: bool
    closed: bool


class SimilarPool:
    """The neighbours in one work folder of ``rows`` triplets, for reading.

    ``lent`` maps a source to the rows of the other source that its context comes from.
    """

    def __init__(self, work: Path, rows: int, lent: Mapping[int, range]) -> None:
        self._work = work
        self._rows = rows
        self._lent = lent
        self._db = open_tables(similar_folder(work) / TABLES_NAME)
        self._arrays: dict[Path, npt.NDArray[np.generic]] = {}

    def close(self) -> None:
        """Close the tables."""
        self._db.close()

    def marks(self, row: int) -> Marks:
        """The marks of the triplet at ``row``."""
        places = [row, *(lent_row(row, source, self._rows) for source, rows in self._lent.items() if row in rows)]
        for place in places:  # a triplet that is only lent is not under its own row
            found = self._db.execute(
                "SELECT question, answer, sentence, EXISTS(SELECT 1 FROM closed WHERE closed.source = triplet.source"
                " AND closed.question = triplet.question) FROM triplet WHERE row = ?",
                (place,),
            ).fetchone()
            if found is not None:
                break
        question, answer, sentence, closed = found
        return Marks(question, answer, bool(sentence), bool(closed))

    def neighbours(self, row: int, by: By) -> Iterator[tuple[int, float]]:
        """Other triplets that may be its context, and their cosines, most like ``row`` first; ties in input order.

        With "both", triplets are ranked by the product of their ranks by text and by picture among the candidates of
        either, and the score is the lesser cosine. A triplet without a picture is no neighbour by picture or by both.
        """
        match by:
            case "text":
                found = self._by("text", row)
            case "image":
                found = self._by("picture", row)
            case "both":
                found = self._by_both(row)
        yield from ((other % self._rows, score) for other, score in found)

    def _by(self, kind: Kind, row: int) -> Iterator[tuple[int, float]]:
        number = self._number(kind, row)
        if number is None:
            return
        found = np.asarray(self._array(neighbours_path(self._work, kind))[number])
        numbers = [number, *found[found != NOTHING].tolist()]
        scores = self._scores(kind, number, numbers)
        for other, score in zip(numbers, scores, strict=True):
            for triplet in self._triplets(kind, other, row):
                yield triplet, score

    def _by_both(self, row: int) -> Iterator[tuple[int, float]]:
        mine = self._number("text", row), self._number("picture", row)
        if mine[0] is None or mine[1] is None:
            return
        kinds: tuple[Kind, Kind] = ("text", "picture")
        rows = {other for kind in kinds for other, _ in islice(self._by(kind, row), _CANDIDATES_PER_KIND)}
        numbers = {other: self._number("picture", other) for other in sorted(rows)}
        shown = {other: number for other, number in numbers.items() if number is not None}
        texts = [number for other in shown if (number := self._number("text", other)) is not None]
        by_text = self._scores("text", mine[0], texts)
        by_picture = self._scores("picture", mine[1], list(shown.values()))
        products = [one * other for one, other in zip(_ranks(by_text), _ranks(by_picture), strict=True)]
        for _, other, score in sorted(zip(products, shown, map(min, by_text, by_picture), strict=True)):
            yield other, score

    def _number(self, kind: Kind, row: int) -> int | None:
        found = self._db.execute(
            f"SELECT {kind}.number FROM triplet JOIN {kind} ON {kind}.source = triplet.source"
            f" AND {kind}.hash = triplet.{kind} WHERE triplet.row = ?",
            (row,),
        ).fetchone()
        return None if found is None else int(found[0])

    def _triplets(self, kind: Kind, number: int, row: int) -> list[int]:
        """Triplets with the text or picture ``number``: first those after ``row``, then those before it."""
        source, hash = self._db.execute(f"SELECT source, hash FROM {kind} WHERE number = ?", (number,)).fetchone()
        least, before, after = 0, row, row + 1
        if lent := self._lent.get(source):
            least = lent_row(0, source, self._rows)
            before = after = lent_row(lent[row % len(lent)], source, self._rows)
        found: list[int] = []
        for first, end in ((after, _NO_ROW), (least, before)):
            rows = self._db.execute(
                f"SELECT row FROM triplet WHERE source = ? AND {kind} = ? AND row >= ? AND row < ?"
                " ORDER BY row LIMIT ?",
                (source, hash, first, end, _TRIPLETS_PER_ITEM - len(found)),
            )
            found.extend(other for (other,) in rows)
        return found

    def _scores(self, kind: Kind, number: int, others: list[int]) -> list[float]:
        """The cosine of ``number`` with each of ``others``, to 4 decimals."""
        vectors = self._array(vectors_path(self._work, kind))
        scores = cosines(np.asarray(vectors[number : number + 1]), np.asarray(vectors[others]))[0]
        return [round(float(score), _DECIMALS) for score in scores]

    def _array(self, path: Path) -> npt.NDArray[np.generic]:
        if path not in self._arrays:
            self._arrays[path] = mapped(path)
        return self._arrays[path]


def _ranks(scores: list[float]) -> list[int]:
    """1 for the largest; equal scores have equal ranks."""
    order = {score: rank for rank, score in enumerate(sorted(set(scores), reverse=True), 1)}
    return [order[score] for score in scores]
