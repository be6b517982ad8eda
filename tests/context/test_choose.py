"""The choice of context: never the query, never more than asked, the same whatever the order of work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.context.candidates import By, Likeness
from mimicit.context.choose import AUTO, STRATEGIES, choose, parse_strategies
from mimicit.errors import UsageError


class Known(NamedTuple):
    """What a pool knows of a triplet; ``media`` and ``conversation`` are empty where it has none."""

    id: str
    instruction: str
    media: str
    conversation: str
    turn: int


class ListPool:
    """A pool over a list, the plainest possible."""

    def __init__(self, known: Sequence[Known], related: dict[str, list[str]] | None = None) -> None:
        self.all = list(known)
        self.rows = range(len(self.all))
        self.lists = related or {}

    def source(self, row: int) -> str:
        return "s"

    def rows_of_source(self, row: int) -> range:
        return self.rows

    def id(self, row: int) -> str:
        return self.all[row].id

    def instruction(self, row: int) -> str:
        return self.all[row].instruction

    def shown(self, row: int) -> int:
        media = self.all[row].media
        return min(self._showing(media)) if media else -1

    def conversation(self, row: int) -> int:
        conversation = self.all[row].conversation
        return min(other for other in self.rows if self.all[other].conversation == conversation) if conversation else -1

    def related(self, row: int) -> list[int]:
        rows = {one.id: row for row, one in enumerate(self.all)}
        return [rows[id] for id in self.lists.get(self.all[row].id, []) if id in rows]

    def earlier_turns(self, row: int, limit: int) -> list[int]:
        _, _, _, conversation, turn = self.all[row]
        turns = [
            other
            for other in self.rows
            if conversation and self.all[other].conversation == conversation and self.all[other].turn < turn
        ]
        return sorted(turns, key=lambda other: -self.all[other].turn)[:limit]

    def same_media_count(self, row: int) -> int:
        return len(self._showing(self.all[row].media)) if self.all[row].media else 0

    def same_media_at(self, row: int, place: int) -> int:
        return self._showing(self.all[row].media)[place]

    def pictures(self, row: int) -> frozenset[str]:
        return frozenset(self.all[row].media.split(",")) - {""}

    def neighbours(self, row: int, by: By) -> Iterator[tuple[int, float]]:
        raise NotImplementedError

    def likeness(self, row: int) -> Likeness:
        raise NotImplementedError

    def _showing(self, media: str) -> list[int]:
        return [other for other in self.rows if self.all[other].media == media]


def known(
    number: int, media: str = "", conversation: str | None = None, turn: int = 0, text: str | None = None
) -> Known:
    return Known(f"id{number}", f"question {number}" if text is None else text, media, conversation or "", turn)


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from([None, "t", "u"])), min_size=1, max_size=12),
    st.integers(0, 5),
    st.integers(0, 3),
    st.permutations(sorted(STRATEGIES)),
)
def test_context_is_distinct_bounded_and_never_the_query(
    rows: list[tuple[str, str | None]], shots: int, seed: int, strategies: list[str]
) -> None:
    pool = ListPool([known(n, media, conversation, n) for n, (media, conversation) in enumerate(rows)])
    for query in pool.rows:
        chosen = choose(query, pool, strategies, shots, seed)
        places = [choice.row for choice in chosen]
        assert len(places) <= shots
        assert len(set(places) | {query}) == len(places) + 1
        assert chosen == choose(query, pool, strategies, shots, seed)


def test_random_never_shows_the_query_s_picture_and_depends_on_the_seed() -> None:
    pool = ListPool([known(n, media=f"picture {n // 3}") for n in range(60)])
    draws = []
    for seed in range(3):
        chosen = [choose(query, pool, ("random",), 4, seed) for query in pool.rows]
        for query, choices in zip(pool.rows, chosen, strict=True):
            assert len(choices) == 4
            assert all(pool.all[choice.row].media != pool.all[query].media for choice in choices)
        draws.append(str(chosen))
    assert len(set(draws)) == 3


def test_conversation_takes_the_turns_right_before() -> None:
    pool = ListPool([known(n, media="p", conversation="t", turn=n) for n in range(5)])
    chosen = choose(4, pool, AUTO, 2, 0)
    assert [(choice.row, choice.relation) for choice in chosen] == [(3, "conversation"), (2, "conversation")]


def test_later_turns_never_become_context() -> None:
    pool = ListPool(
        [known(n, media="p", conversation="t", turn=n) for n in range(5)], related={"id1": ["id0", "id3", "id4"]}
    )
    chosen = choose(1, pool, AUTO, 4, 0)
    assert [choice.row for choice in chosen] == [0]


def test_related_keeps_the_published_order_and_comes_before_random() -> None:
    pool = ListPool([known(n) for n in range(30)], related={"id0": ["id7", "id3", "gone", "id9"]})
    chosen = choose(0, pool, AUTO, 4, 0)
    assert [(choice.row, choice.relation) for choice in chosen[:3]] == [(7, "related"), (3, "related"), (9, "related")]
    assert chosen[3].relation == "random"


def test_same_media_never_repeats_the_question() -> None:
    pool = ListPool([known(0, "p", text="what?"), known(1, "p", text="what?"), known(2, "p", text="who?")])
    assert [choice.row for choice in choose(0, pool, ("same-media",), 3, 0)] == [2]


@pytest.mark.parametrize("count", [2, 3, 60, 64])
def test_same_media_finds_the_only_other_question_wherever_it_stands(count: int) -> None:
    for place in range(count):
        pool = ListPool([known(n, "p", text="who?" if n == place else "what?") for n in range(count)])
        query = (place + 1) % count
        assert [choice.row for choice in choose(query, pool, ("same-media",), 2, 0)] == [place]


def test_same_media_draws_from_all_that_show_the_picture() -> None:
    pool = ListPool([known(n, "p") for n in range(300)])
    chosen = [choice.row for query in pool.rows for choice in choose(query, pool, ("same-media",), 2, 0)]
    assert len(chosen) == 600
    assert len(set(chosen)) > 240  # of 300: what falls of 600 draws on each is about two


@pytest.mark.parametrize("text", ["nearest", "random,random", "", "related,"])
def test_unknown_strategies_are_named(text: str) -> None:
    with pytest.raises(UsageError, match="--context"):
        parse_strategies(text)
