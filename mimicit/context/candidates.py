"""The nouns of the choice of context: a candidate, the pool that candidates come from, and what was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

__all__ = ["By", "Candidate", "Choice", "Likeness", "Pool"]

By = Literal["text", "image", "both"]
"""What two triplets are compared by."""


class Candidate(NamedTuple):
    """What the choice needs to know of a usable triplet; ``media`` identifies what it shows by content ("" for none).

    ``seq`` is its row among the usable triplets of the build, ``conversation`` and ``turn`` as in `RawTriplet`.
    """

    seq: int
    source: str
    id: str
    instruction: str
    media: str
    conversation: str | None
    turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """By what duplicates of a triplet are told.

    ``question`` and ``answer`` are hashes of instruction and answer without case, punctuation and spacing; two answers
    that are equal ``sentence`` s are copies. ``closed`` says that most of those who ask the question share their answer
    with another. ``pictures`` are the contents of what it shows, ``looks`` the fingerprints of those pictures, where
    they have one.
    """

    question: int
    answer: int
    sentence: bool
    closed: bool
    pictures: frozenset[str]
    looks: tuple[int, ...]


class Choice(NamedTuple):
    """One chosen context triplet: its row among the usable ones, why it was chosen, and its score, if there is one."""

    seq: int
    relation: str
    score: float | None = None


class Pool(Protocol):
    """The usable triplets of the query's source."""

    def related(self, query: Candidate) -> Sequence[Candidate]:
        """The published related triplets, in published order; dangling ids are left out."""

    def earlier_turns(self, query: Candidate, limit: int) -> Sequence[Candidate]:
        """Up to ``limit`` earlier turns of the query's conversation, latest first."""

    def same_media_count(self, query: Candidate) -> int:
        """How many triplets show exactly what the query shows, itself included; 0 where it shows nothing."""

    def same_media_at(self, query: Candidate, place: int) -> Candidate:
        """One of these, ``0 <= place < count``."""

    def count(self, source: str) -> int:
        """How many usable triplets the source has."""

    def at(self, source: str, rank: int) -> Candidate:
        """The ``rank``-th usable triplet of the source, ``0 <= rank < count``."""

    def neighbours(self, query: Candidate, by: By) -> Iterator[tuple[Candidate, float]]:
        """Other triplets that are like the query, with their scores (cosines), most like it first."""

    def likeness(self, candidate: Candidate) -> Likeness:
        """By what duplicates of a triplet are told, for the query and its neighbours."""
