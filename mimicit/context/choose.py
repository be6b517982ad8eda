"""Which triplets become the context of a query: an ordered list of strategies over a `Pool`, nothing else.

A strategy yields rows of triplets, best first; `choose` walks the strategies in the order the user gave and keeps up to
``shots`` distinct ones. Every draw is keyed by the content of the query (seed, source, id), so the choice does not
depend on workers, on the order of work, or on other sources. Cost: a few indexed look-ups per query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from math import gcd
from typing import Final

from mimicit import plugins
from mimicit.context.candidates import SIMILAR, Choice, Guards, Pool, similar
from mimicit.errors import UsageError

__all__ = [
    "AUTO",
    "OWN_SOURCE",
    "STRATEGIES",
    "Choice",
    "Pool",
    "Strategy",
    "added_strategies",
    "choose",
    "parse_strategies",
    "relations_of",
]

Strategy = Callable[[int, Pool, int, int], Iterator[int]]
"""(row of the query, pool, shots, seed) to rows, best first; `choose` skips the query itself and repeated rows."""

_SAME_MEDIA_LOOKS: Final = 64  # candidates looked at, of however many triplets that show the same
_RANDOM_DRAWS_PER_SHOT: Final = 8  # a draw can hit the query itself or its picture; small sources run dry


def related(query: int, pool: Pool, shots: int, seed: int) -> Iterator[int]:
    """The publisher's related triplets, except other turns of the same conversation (they have their own strategy)."""
    if rows := pool.related(query):
        own = pool.conversation(query)
        yield from (row for row in rows if own < 0 or pool.conversation(row) != own)


def conversation(query: int, pool: Pool, shots: int, seed: int) -> Iterator[int]:
    """The turns right before the query's."""
    return iter(pool.earlier_turns(query, shots))


def same_media(query: int, pool: Pool, shots: int, seed: int) -> Iterator[int]:
    """Other questions about what the query shows; never the same question, whose answer would give it away."""
    count = pool.same_media_count(query)
    if count < 2:
        return
    question, own = pool.instruction(query), pool.conversation(query)
    for place in islice(_walk(count, _bits(_key(query, pool, "same_media", seed))), _SAME_MEDIA_LOOKS):
        row = pool.same_media_at(query, place)
        if row != query and (own < 0 or pool.conversation(row) != own) and pool.instruction(row) != question:
            yield row


def random(query: int, pool: Pool, shots: int, seed: int) -> Iterator[int]:
    """Triplets drawn from the query's source that neither show its media nor belong to its conversation.

    If another source lends it context, they are drawn from that, without those that show its pictures or say the same.
    """
    rows, key = pool.rows_of_source(query), _key(query, pool, "random", seed)
    own, shown = pool.conversation(query), pool.shown(query)
    is_lent = query not in rows
    for draw in range(shots * _RANDOM_DRAWS_PER_SHOT if rows else 0):
        row = rows[_bits(f"{key}{draw}") % len(rows)]
        if is_lent:
            if pool.may_lend(row, query):
                yield row
        elif (shown < 0 or pool.shown(row) != shown) and (own < 0 or pool.conversation(row) != own):
            yield row


STRATEGIES: Final[dict[str, tuple[str, Strategy]]] = {
    # name on the command line: (relation in the sample, strategy)
    "conversation": ("conversation", conversation),
    "random": ("random", random),
    "related": ("related", related),
    "same-media": ("same_media", same_media),
}
OWN_SOURCE: Final = frozenset({"conversation", "related", "same-media"})
"""Strategies that only find triplets of the query's own source."""
AUTO: Final = ("conversation", "related", "same-media", "random")
"""What ``--context auto`` means. A conversation comes first so that its turns stay right before the query."""


@cache
def added_strategies() -> dict[str, Strategy]:
    """The strategies of other packages, by name; `UsageError` if one cannot be used."""
    return plugins.added(plugins.CONTEXT, None, {*STRATEGIES, *SIMILAR, "auto", "none"})


def relations_of(names: Iterable[str]) -> set[str]:
    """The relations of the triplets that these strategies choose."""
    ours = {name: relation for name, (relation, _) in [*STRATEGIES.items(), *SIMILAR.items()]}
    return {ours.get(name) or _relation(name) for name in names}


def _relation(name: str) -> str:
    """The relation that a strategy of another package makes."""
    return name.replace("-", "_")


def parse_strategies(text: str) -> tuple[str, ...]:
    """The strategies named by ``--context``: ``auto``, ``none``, or names separated by commas, in order."""
    if text == "auto":
        return AUTO
    if text == "none":
        return ()
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in SIMILAR and name not in STRATEGIES and name not in added_strategies():
            known = ", ".join(sorted([*STRATEGIES, *SIMILAR, *added_strategies()]))
            raise UsageError(f"--context: no strategy {name!r}; there are: auto, none, {known}")
    if len(set(names)) != len(names):
        raise UsageError(f"--context: {text!r} names a strategy twice")
    return names


def choose(
    query: int, pool: Pool, strategies: Sequence[str], shots: int, seed: int, guards: Guards | None = None
) -> list[Choice]:
    """Up to ``shots`` context triplets for ``query``, nearest to the query first; strategies are tried in order.

    ``guards`` apply to the strategies that compare triplets (see `mimicit.context.candidates`); these also never choose
    a triplet that shows a picture of one chosen before. An interleaved document is never context: it has no answer.
    """
    chosen: list[Choice] = []
    taken = {query}
    for name in strategies:
        if len(chosen) >= shots:
            break
        if name in SIMILAR:
            _choose_similar(query, pool, name, shots, guards or Guards(), chosen, taken)
            continue
        relation, strategy = STRATEGIES.get(name) or (_relation(name), added_strategies()[name])
        for row in strategy(query, pool, shots - len(chosen), seed):
            if row not in taken and not pool.is_document(row):
                taken.add(row)
                chosen.append(Choice(row, relation))
                if len(chosen) >= shots:
                    break
    return chosen


def _choose_similar(
    query: int, pool: Pool, name: str, shots: int, guards: Guards, chosen: list[Choice], taken: set[int]
) -> None:
    """Add to ``chosen``, up to ``shots``, and to ``taken`` what a strategy of `SIMILAR` finds."""
    relation, by = SIMILAR[name]
    shown = {picture for choice in chosen for picture in pool.pictures(choice.row)}
    for row, score in similar(query, pool, by, guards):
        if row in taken or pool.is_document(row) or not shown.isdisjoint(pictures := pool.pictures(row)):
            continue
        shown |= pictures
        taken.add(row)
        chosen.append(Choice(row, relation, score))
        if len(chosen) >= shots:
            break


def _key(query: int, pool: Pool, purpose: str, seed: int) -> str:
    """What a draw for ``query`` depends on: the seed, the purpose, and the query's source and id."""
    return f"{seed}\0{purpose}\0{pool.source(query)}\0{pool.id(query)}\0"


def _bits(key: str) -> int:
    """64 random bits that depend on ``key``."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _walk(count: int, bits: int) -> Iterator[int]:
    """Every number below ``count`` once, from a start and by a step that 64 random ``bits`` decide.

    A step that shares no divisor with ``count`` meets every number before it returns to the start.
    """
    if count == 0:
        return
    step = 1 + (bits >> 32) % count
    while gcd(step, count) > 1:
        step += 1
    for number in range(count):
        yield ((bits & 0xFFFFFFFF) + number * step) % count
