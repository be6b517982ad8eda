"""The pool of `mimicit.context.choose` over the tables of a build; cells are read when they are needed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mimicit.context.candidates import By, Guards, Likeness, is_leak
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.ragged import Numbers
from mimicit.pipeline.similarity.pool import SimilarPool
from mimicit.pipeline.similarity.tables import says
from mimicit.pipeline.tables import LINKS_NAME, MEDIA_NAME, SAME_MEDIA_NAME, TRIPLETS_NAME

_MOST_ALIKE: Final = 1024


class TripletPool:
    """The usable triplets of one work folder, by row of TRIPLETS; ``names`` are the sources' names by number.

    ``lenders`` maps a source to the other source that its context comes from. See `mimicit.context.candidates.Pool`.
    """

    def __init__(self, work: Path, names: Sequence[str], lenders: Mapping[int, int] = MappingProxyType({})) -> None:
        self.triplets = ColumnFile(work / TRIPLETS_NAME)
        self.media = ColumnFile(work / MEDIA_NAME)
        self._links = ColumnFile(work / LINKS_NAME)
        self._names = names
        self._source = self.triplets.reader("source")
        self._turn = self.triplets.reader("turn")
        self._turn_before = self._links.reader("turn_before")
        same_media = ColumnFile(work / SAME_MEDIA_NAME)
        self._same_media = same_media.reader("row")
        self._files = (self.triplets, self.media, self._links, same_media)
        self.id = self.triplets.text_reader("id")
        self.instruction = self.triplets.text_reader("instruction")
        self.conversation = self._links.reader("conversation")
        self.shown = self._links.reader("same_media")
        self.same_media_count = self._links.reader("same_media_count")
        self._has_documents = self.triplets.has_bytes("parts")
        self._has_related = self._links.has_integers("related")
        rows = range(self.triplets.rows)
        starts = [bisect_left(rows, number, key=self._source) for number in range(len(names) + 1)]
        spans = [range(*span) for span in pairwise(starts)]
        self._own_rows = spans
        self._rows = [spans[lenders.get(number, number)] for number in range(len(names))]
        self._lent = {number: spans[lender] for number, lender in lenders.items()}
        self._alike: dict[int, Likeness] = {}  # not a cache on a method: that cycle would keep all files mapped
        self._work = work
        self._similar: SimilarPool | None = None  # opened by the first query that needs it

    def give_back(self) -> None:
        """Release the memory that reading random rows has mapped so far."""
        for file in self._files:
            file.give_back()

    def close(self) -> None:
        """Close what was opened."""
        if self._similar is not None:
            self._similar.close()

    def source(self, row: int) -> str:
        """See `mimicit.context.candidates.Pool`."""
        return self._names[self._source(row)]

    def rows_of_source(self, row: int) -> range:
        """See `mimicit.context.candidates.Pool`."""
        return self._rows[self._source(row)]

    def own_rows(self, row: int) -> range:
        """The rows of all triplets of the same source."""
        return self._own_rows[self._source(row)]

    def may_lend(self, row: int, query: int) -> bool:
        """See `mimicit.context.candidates.Pool`."""
        return not is_leak(self._told_apart_by(query), self._told_apart_by(row), Guards())

    def is_document(self, row: int) -> bool:
        """See `mimicit.context.candidates.Pool`."""
        return self._has_documents and bool(self.triplets.view("parts", row))

    def related(self, row: int) -> list[int]:
        """See `mimicit.context.candidates.Pool`."""
        return self._links.integers("related", row) if self._has_related else []

    def earlier_turns(self, row: int, limit: int) -> list[int]:
        """See `mimicit.context.candidates.Pool`."""
        found: list[int] = []
        before = self._turn_before(row)
        if before >= 0:
            turn = self._turn(row)
            while before >= 0 and len(found) < limit:
                if self._turn(before) < turn:
                    found.append(before)
                before = self._turn_before(before)
        return found

    def turns_before(self, rows: Numbers, count: int) -> tuple[Numbers, NDArray[np.bool_]]:
        """(int64[rows, count] of turns, latest first; bool[rows], whether they equal `earlier_turns` up to ``count``).

        For rows that do not, call `earlier_turns`.
        """
        turn = self.triplets.numbers("turn", rows)
        found = np.zeros((len(rows), count), np.int64)
        are_turns = np.ones(len(rows), np.bool_)
        before = rows
        for place in range(count):
            before = self._links.numbers("turn_before", before)
            are_turns &= before >= 0
            before = np.where(are_turns, before, rows)
            found[:, place] = before
            are_turns &= self.triplets.numbers("turn", before) < turn
        return found, are_turns

    def same_media_at(self, row: int, place: int) -> int:
        """See `mimicit.context.candidates.Pool`."""
        return self._same_media(self.shown(row) + place)

    def pictures(self, row: int) -> frozenset[str]:
        """See `mimicit.context.candidates.Pool`."""
        return frozenset(self.triplets.text("shown", row).split(",")) - {""}

    def neighbours(self, row: int, by: By) -> Iterator[tuple[int, float]]:
        """See `mimicit.context.candidates.Pool`."""
        return self._similar_pool().neighbours(row, by)

    def likeness(self, row: int) -> Likeness:
        """See `mimicit.context.candidates.Pool`."""
        marks = self._similar_pool().marks(row)
        return Likeness(**marks._asdict(), pictures=self.pictures(row), looks=self._looks(row))

    def _told_apart_by(self, row: int) -> Likeness:
        """As `likeness`, but without the tables of a comparison, so never ``closed``."""
        found = self._alike.get(row)
        if found is None:
            marks = says(self.instruction(row), self.triplets.text("answer", row))
            found = Likeness(**marks._asdict(), closed=False, pictures=self.pictures(row), looks=self._looks(row))
            if len(self._alike) >= _MOST_ALIKE:
                self._alike.clear()
            self._alike[row] = found
        return found

    def _looks(self, row: int) -> tuple[int, ...]:
        """The fingerprints of the pictures that a triplet shows."""
        looks = (self.media.data("fingerprint", number) for number in self.triplets.integers("media", row))
        return tuple(int.from_bytes(look, "big") for look in looks if look)

    def _similar_pool(self) -> SimilarPool:
        if self._similar is None:
            self._similar = SimilarPool(self._work, self.triplets.rows, self._lent)
        return self._similar
