"""The types of the choice of context: the pool that context comes from, and the choice; and guards against leaks.

A usable triplet is identified by its *row*, a number, by which the pool answers questions about it.

Context that is like the query (`similar`) passes guards that keep the answer out of it: a context triplet leaks if
copying from it answers the query unseen. Never chosen are:

- the query itself, and the turns of its conversation;
- a triplet that shows a picture of the query: one with the same bytes, or whose fingerprint differs in at most 3 of 64
  bits (the same picture resized or recompressed). ``allow_same_media`` lifts this, but then the question and the answer
  must both differ;
- a triplet with the same question and the same answer, or with the same answer of 5 words or more: a duplicate;
- any triplet with the same question, if that question is *closed*: at least half of the triplets that ask it share
  their answer with another of them ("Is there a dog?"). If only triplets with the query's answer were left out, the
  model would see the other answers alone and find the right one by elimination. (So an equal short answer to another
  question is no leak, and is kept: leaving out every "yes" would teach the model that the answer is never in the
  context.) ``allow_same_answer`` lifts this rule and the one before.

In addition, no two context triplets show the same picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

By = Literal["text", "image", "both"]
"""What two triplets are compared by."""

SIMILAR: Final[dict[str, tuple[str, By]]] = {
    # name on the command line: (relation in the sample, what is compared)
    "both": ("both_similar", "both"),
    "image-similar": ("image_similar", "image"),
    "text-similar": ("text_similar", "text"),
}
_SAME_LOOK: Final = 3  # bits of 64; what resizing and recompressing change


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """What is compared to find duplicates of a triplet.

    ``question`` and ``answer`` are hashes of instruction and answer without case, punctuation and spacing;
    ``sentence`` says that the answer has 5 words or more, so that an equal one is a copy. ``closed`` says that at least
    half of the triplets with the question share their answer with another of them. ``pictures`` are the contents of
    what it shows, ``looks`` the fingerprints of the pictures that have one.
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
        """The rows of all triplets of the source that its context comes from: usually the same source."""

    def may_lend(self, row: int, query: int) -> bool:
        """Whether a triplet of another source may be context: it must not show the query's picture or say the same.

        The other source may hold a copy of the query.
        """

    def is_document(self, row: int) -> bool:
        """Whether it is an interleaved document."""

    def id(self, row: int) -> str:
        """Its id, which no other triplet of its source has."""

    def instruction(self, row: int) -> str:
        """What it asks."""

    def shown(self, row: int) -> int:
        """A number that triplets of a source share if they show exactly the same media; -1 if it shows nothing."""

    def conversation(self, row: int) -> int:
        """A number that the turns of a conversation share; -1 if it is not part of one."""

    def related(self, row: int) -> Sequence[int]:
        """The published related triplets, in published order; dangling ids are left out."""

    def earlier_turns(self, row: int, limit: int) -> Sequence[int]:
        """Up to ``limit`` earlier turns of its conversation, latest first."""

    def same_media_count(self, row: int) -> int:
        """How many triplets show exactly what it shows, itself included; 0 if it shows nothing."""

    def same_media_at(self, row: int, place: int) -> int:
        """The row of one of those triplets, ``0 <= place < same_media_count(row)``."""

    def pictures(self, row: int) -> frozenset[str]:
        """The contents of what it shows."""

    def neighbours(self, row: int, by: By) -> Iterator[tuple[int, float]]:
        """Other triplets that are like it, with their scores (cosines), most like it first."""

    def likeness(self, row: int) -> Likeness:
        """What is compared to find duplicates of a triplet; only for a query and its neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """Which triplets may be context although they are like the query; ``min_score`` is the least cosine, -1 to 1."""

    allow_same_media: bool = False
    allow_same_answer: bool = False
    min_score: float = -1.0


def similar(query: int, pool: Pool, by: By, guards: Guards) -> Iterator[tuple[int, float]]:
    """The triplets most like ``query`` that pass ``guards``, with their scores; no two show the same picture."""
    mine, own = pool.likeness(query), pool.conversation(query)
    before: list[Likeness] = []
    for row, score in pool.neighbours(query, by):
        if row == query or score < guards.min_score or 0 <= own == pool.conversation(row):
            continue
        theirs = pool.likeness(row)
        if is_leak(mine, theirs, guards) or any(_repeats(theirs, other) for other in before):
            continue
        before.append(theirs)
        yield row, score


def is_leak(query: Likeness, candidate: Likeness, guards: Guards) -> bool:
    """Whether ``candidate`` in the context of ``query`` would give its answer away (see the module)."""
    same_picture = _share_picture(query, candidate)
    if same_picture and not guards.allow_same_media:
        return True
    if guards.allow_same_answer:
        return False
    same_question = query.question == candidate.question
    same_answer = query.answer == candidate.answer
    if same_picture:
        return same_question or same_answer
    return (same_question and (same_answer or query.closed)) or (same_answer and query.sentence)


def _share_picture(one: Likeness, other: Likeness) -> bool:
    if not one.pictures.isdisjoint(other.pictures):
        return True
    return any((mine ^ theirs).bit_count() <= _SAME_LOOK for mine in one.looks for theirs in other.looks)


def _repeats(one: Likeness, other: Likeness) -> bool:
    """Whether one adds little to the other as context: the same picture, or the same text without a picture."""
    if one.pictures or other.pictures:
        return _share_picture(one, other)
    return (one.question, one.answer) == (other.question, other.answer)
