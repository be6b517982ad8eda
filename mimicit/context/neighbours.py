"""Context that is like the query, and the guards that keep the answer out of it.

A context triplet leaks where copying from it answers the query unseen. What is never chosen:

- the query itself, and the turns of its conversation;
- a triplet that shows a picture of the query: one with the same bytes, or whose fingerprint differs in at most 3 of 64
  bits (the same picture resized or recompressed). ``allow_same_media`` lifts this, but then the question and the answer
  must both be others;
- a triplet with the same question and the same answer, or with the same answer of 5 words or more: a duplicate;
- any triplet with the same question, where that question is *closed*: where most of those who ask it share their answer
  with another ("Is there a dog?"). Leaving out only those that agree with the query would show the model the others
  alone, and give the answer away by elimination. (So an equal short answer to another question is no leak, and is
  kept: leaving out every "yes" would teach the model that the answer is never in the context.) ``allow_same_answer``
  lifts this rule and the one before.

And no two context triplets show the same picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mimicit.context.candidates import By, Likeness, Pool

__all__ = ["SIMILAR", "Guards", "is_leak", "similar"]

SIMILAR: Final[dict[str, tuple[str, By]]] = {
    # name on the command line: (relation in the sample, what is compared)
    "both": ("both_similar", "both"),
    "image-similar": ("image_similar", "image"),
    "text-similar": ("text_similar", "text"),
}
_SAME_LOOK: Final = 3  # bits of 64; what resizing and recompressing change


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What may be context although it is so much like the query; ``min_score`` is the least cosine, -1 to 1."""

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
    """Whether a context of both tells little more than one: the same picture, or the same text without a picture."""
    if one.pictures or other.pictures:
        return _share_picture(one, other)
    return (one.question, one.answer) == (other.question, other.answer)
