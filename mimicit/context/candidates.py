"""The nouns of the choice of context: the pool that context comes from, and what was chosen.

A usable triplet is known by its *row*, a number; what there is to know of it, the pool says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

__all__ = ["By", "Choice", "Likeness", "Pool"]

By = Literal["text", "image", "both"]
"""What two triplets are compared by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """What is compared to find duplicates of a triplet.

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
    """One chosen context triplet: its row, why it was chosen, and its score, if there is one."""

    row: int
    relation: str
    score: float | None = None


class Pool(Protocol):
    """The usable triplets of a build; the triplets of a source have consecutive rows."""

    def source(self, row: int) -> str:
        """The name of the source of a triplet."""

    def rows_of_source(self, row: int) -> range:
        """The rows of all triplets of the source that its context comes from: as a rule the same source."""

    def may_lend(self, row: int, query: int) -> bool:
        """Whether a triplet of another source may be context: it must not show the query's picture or say the same.

        The other source may hold a copy of the query.
        """

    def id(self, row: int) -> str:
        """Its id, which no other triplet of its source has."""

    def instruction(self, row: int) -> str:
        """What it asks."""

    def shown(self, row: int) -> int:
        """A number that two triplets of a source share where they show exactly the same; -1 where it shows nothing."""

    def conversation(self, row: int) -> int:
        """A number that the turns of a conversation share; -1 where it is no turn of one."""

    def related(self, row: int) -> Sequence[int]:
        """The published related triplets, in published order; dangling ids are left out."""

    def earlier_turns(self, row: int, limit: int) -> Sequence[int]:
        """Up to ``limit`` earlier turns of its conversation, latest first."""

    def same_media_count(self, row: int) -> int:
        """How many triplets show exactly what it shows, itself included; 0 where it shows nothing."""

    def same_media_at(self, row: int, place: int) -> int:
        """One of these, ``0 <= place < count``."""

    def pictures(self, row: int) -> frozenset[str]:
        """The contents of what it shows."""

    def neighbours(self, row: int, by: By) -> Iterator[tuple[int, float]]:
        """Other triplets that are like it, with their scores (cosines), most like it first."""

    def likeness(self, row: int) -> Likeness:
        """By what duplicates of a triplet are told, for a query and its neighbours."""
