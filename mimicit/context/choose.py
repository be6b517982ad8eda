"""Which triplets become the context of a query: an ordered list of strategies over a `Pool`, nothing else.

A strategy yields candidates, best first; `choose` walks the strategies in the order the user gave and keeps up to
``shots`` distinct triplets. Every draw is keyed by the content of the query (seed, source, id), so the choice does not
depend on workers, on the order of work, or on other sources. Cost: a few indexed look-ups per query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import gcd
from typing import Final

from mimicit.context.candidates import Candidate, Choice, Pool
from mimicit.context.neighbours import SIMILAR, Guards, similar
from mimicit.errors import UsageError

__all__ = ["AUTO", "STRATEGIES", "Candidate", "Choice", "Pool", "Strategy", "choose", "parse_strategies"]


Strategy = Callable[[Candidate, Pool, int, int], Iterator[Candidate]]
"""(query, pool, shots, seed) to candidates, best first."""

_SAME_MEDIA_LOOKS: Final = 64  # candidates looked at, however many triplets show the same
_RANDOM_DRAWS_PER_SHOT: Final = 8  # a draw can hit the query itself or its picture; small sources run dry


def related(query: Candidate, pool: Pool, shots: int, seed: int) -> Iterator[Candidate]:
    """The publisher's related triplets, except other turns of the same conversation (they have their own strategy)."""
    for candidate in pool.related(query):
        if candidate.conversation is None or candidate.conversation != query.conversation:
            yield candidate


def conversation(query: Candidate, pool: Pool, shots: int, seed: int) -> Iterator[Candidate]:
    """The turns right before the query's."""
    if query.conversation is not None:
        yield from pool.earlier_turns(query, shots)


def same_media(query: Candidate, pool: Pool, shots: int, seed: int) -> Iterator[Candidate]:
    """Other questions about what the query shows; never the same question, whose answer would give it away."""
    count = pool.same_media_count(query)
    for place in islice(_walk(count, _draw(seed, query, "same_media", "")), _SAME_MEDIA_LOOKS):
        candidate = pool.same_media_at(query, place)
        same_talk = query.conversation is not None and candidate.conversation == query.conversation
        if candidate.seq != query.seq and candidate.instruction != query.instruction and not same_talk:
            yield candidate


def random(query: Candidate, pool: Pool, shots: int, seed: int) -> Iterator[Candidate]:
    """Triplets drawn from the query's source that neither show its media nor belong to its conversation."""
    count = pool.count(query.source)
    for draw in range(shots * _RANDOM_DRAWS_PER_SHOT):
        candidate = pool.at(query.source, _draw(seed, query, "random", str(draw)) % count)
        same_picture = bool(query.media) and candidate.media == query.media
        same_talk = query.conversation is not None and candidate.conversation == query.conversation
        if not same_picture and not same_talk:
            yield candidate


STRATEGIES: Final[dict[str, tuple[str, Strategy]]] = {
    # name on the command line: (relation in the sample, strategy)
    "conversation": ("conversation", conversation),
    "random": ("random", random),
    "related": ("related", related),
    "same-media": ("same_media", same_media),
}
AUTO: Final = ("conversation", "related", "same-media", "random")
"""What ``--context auto`` means. A talk comes first so that its turns stay right before the query."""


def parse_strategies(text: str) -> tuple[str, ...]:
    """The strategies named by ``--context``: ``auto``, ``none``, or names separated by commas, in order."""
    if text == "auto":
        return AUTO
    if text == "none":
        return ()
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in STRATEGIES and name not in SIMILAR:
            known = ", ".join(sorted([*STRATEGIES, *SIMILAR]))
            raise UsageError(f"--context: no strategy {name!r}; there are: auto, none, {known}")
    if len(set(names)) != len(names):
        raise UsageError(f"--context: {text!r} names a strategy twice")
    return names


def choose(
    query: Candidate, pool: Pool, strategies: Sequence[str], shots: int, seed: int, guards: Guards | None = None
) -> list[Choice]:
    """Up to ``shots`` context triplets for ``query``, nearest to the query first; strategies are tried in order.

    ``guards`` hold for those that compare triplets (see `mimicit.context.neighbours`), which also never show a picture
    that a triplet chosen before shows.
    """
    chosen: list[Choice] = []
    taken = {query.seq}
    shown: set[str] = set()
    compares = not SIMILAR.keys().isdisjoint(strategies)
    for name in strategies:
        if len(chosen) >= shots:
            break
        for candidate, choice in _choices(name, query, pool, shots - len(chosen), seed, guards or Guards()):
            if candidate.seq in taken:
                continue
            if compares:
                pictures = set(candidate.media.split(",")) - {""}
                if name in SIMILAR and not shown.isdisjoint(pictures):
                    continue
                shown |= pictures
            taken.add(candidate.seq)
            chosen.append(choice)
            if len(chosen) >= shots:
                break
    return chosen


def _choices(
    name: str, query: Candidate, pool: Pool, shots: int, seed: int, guards: Guards
) -> Iterator[tuple[Candidate, Choice]]:
    if name in SIMILAR:
        relation, by = SIMILAR[name]
        for candidate, score in similar(query, pool, by, guards):
            yield candidate, Choice(seq=candidate.seq, relation=relation, score=score)
        return
    relation, strategy = STRATEGIES[name]
    for candidate in strategy(query, pool, shots, seed):
        yield candidate, Choice(seq=candidate.seq, relation=relation)


def _draw(seed: int, query: Candidate, purpose: str, salt: str) -> int:
    """64 random bits that depend on the content alone."""
    text = "\0".join((str(seed), purpose, query.source, query.id, salt))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _walk(count: int, bits: int) -> Iterator[int]:
    """Every number below ``count`` once, from a start and by a step that 64 random ``bits`` decide.

    A step without a common divisor with ``count`` meets all numbers before it comes round.
    """
    if count == 0:
        return
    step = 1 + (bits >> 32) % count
    while gcd(step, count) > 1:
        step += 1
    for number in range(count):
        yield ((bits & 0xFFFFFFFF) + number * step) % count
