"""The pool of `mimicit.context.choose` over the tables of a build: candidates by rows, read as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

import numpy as np

from mimicit.context.candidates import By, Candidate, Likeness
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.similarity.pool import SimilarPool
from mimicit.pipeline.tables import LINKS_NAME, MEDIA_NAME, SAME_MEDIA_NAME, TRIPLETS_NAME

__all__ = ["TripletPool"]

_TEXTS: Final = ("id", "instruction", "shown", "conversation")
_CANDIDATES_KEPT: Final = 1 << 16  # some 30 MB; neighbours in the input share their candidates


class TripletPool:
    """The usable triplets of one work folder; ``names`` are those of the sources by number.

    The ``seq`` of its candidates is their row in TRIPLETS.
    """

    def __init__(self, work: Path, names: Sequence[str]) -> None:
        self.triplets = ColumnFile(work / TRIPLETS_NAME)
        self.media = ColumnFile(work / MEDIA_NAME)
        self._links = ColumnFile(work / LINKS_NAME)
        self._same_media = ColumnFile(work / SAME_MEDIA_NAME)
        self._names = names
        sources = self.triplets.column("source")
        self._spans = {
            name: (int(np.searchsorted(sources, number, "left")), int(np.searchsorted(sources, number, "right")))
            for number, name in enumerate(names)
        }
        self._work = work
        self._similar: SimilarPool | None = None  # opened by the first query that asks for it
        self.candidate = lru_cache(_CANDIDATES_KEPT)(partial(_candidate, self.triplets, names))

    def close(self) -> None:
        """Close what was opened."""
        if self._similar is not None:
            self._similar.close()

    def source(self, row: int) -> str:
        """The name of the source of a triplet."""
        return self._names[self.triplets.number("source", row)]

    def is_document(self, row: int) -> bool:
        """Whether the triplet is an interleaved document, which has no context."""
        return bool(self.triplets.data("parts", row))

    def related(self, query: Candidate) -> list[Candidate]:
        """See `mimicit.context.candidates.Pool`."""
        return [self.candidate(row) for row in self._links.integers("related", query.seq)]

    def earlier_turns(self, query: Candidate, limit: int) -> list[Candidate]:
        """See `mimicit.context.candidates.Pool`."""
        found: list[Candidate] = []
        row = self._links.number("turn_before", query.seq)
        while row >= 0 and len(found) < limit:
            candidate = self.candidate(row)
            if candidate.turn < query.turn:
                found.append(candidate)
            row = self._links.number("turn_before", row)
        return found

    def same_media_count(self, query: Candidate) -> int:
        """See `mimicit.context.candidates.Pool`."""
        return self._links.number("same_media_count", query.seq)

    def same_media_at(self, query: Candidate, place: int) -> Candidate:
        """See `mimicit.context.candidates.Pool`."""
        first = self._links.number("same_media", query.seq)
        return self.candidate(self._same_media.number("row", first + place))

    def count(self, source: str) -> int:
        """See `mimicit.context.candidates.Pool`."""
        first, end = self._spans[source]
        return end - first

    def at(self, source: str, rank: int) -> Candidate:
        """See `mimicit.context.candidates.Pool`."""
        return self.candidate(self._spans[source][0] + rank)

    def neighbours(self, query: Candidate, by: By) -> Iterator[tuple[Candidate, float]]:
        """See `mimicit.context.candidates.Pool`."""
        for row, score in self._similar_pool().neighbours(query.seq, by):
            yield self.candidate(row), score

    def likeness(self, candidate: Candidate) -> Likeness:
        """See `mimicit.context.candidates.Pool`."""
        media = self.triplets.integers("media", candidate.seq)
        looks = (self.media.data("fingerprint", number) for number in media)
        return Likeness(
            **self._similar_pool().marks(candidate.seq)._asdict(),
            pictures=frozenset(candidate.media.split(",")) - {""},
            looks=tuple(int.from_bytes(look, "big") for look in looks if look),
        )

    def _similar_pool(self) -> SimilarPool:
        if self._similar is None:
            self._similar = SimilarPool(self._work)
        return self._similar


def _candidate(triplets: ColumnFile, names: Sequence[str], row: int) -> Candidate:
    """The triplet at ``row``."""
    id, instruction, shown, conversation = triplets.texts(_TEXTS, row)
    source = names[triplets.number("source", row)]
    return Candidate(row, source, id, instruction, shown, conversation or None, triplets.number("turn", row))
