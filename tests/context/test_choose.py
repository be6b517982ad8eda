"""The choice of context: never the query, never more than asked, the same whatever the order of work."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.context.choose import AUTO, STRATEGIES, Candidate, choose, parse_strategies
from mimicit.errors import UsageError


class ListPool:
    """A pool over a list, the plainest possible."""

    def __init__(self, candidates: Sequence[Candidate], related: dict[str, list[str]] | None = None) -> None:
        self.all = list(candidates)
        self.by_id = {candidate.id: candidate for candidate in self.all}
        self.lists = related or {}

    def related(self, query: Candidate) -> list[Candidate]:
        return [self.by_id[id] for id in self.lists.get(query.id, []) if id in self.by_id]

    def earlier_turns(self, query: Candidate, limit: int) -> list[Candidate]:
        turns = [c for c in self.all if c.conversation == query.conversation and c.turn < query.turn]
        return sorted(turns, key=lambda c: -c.turn)[:limit]

    def same_media_count(self, query: Candidate) -> int:
        return len([c for c in self.all if query.media and c.media == query.media])

    def same_media_at(self, query: Candidate, place: int) -> Candidate:
        return [c for c in self.all if c.media == query.media][place]

    def count(self, source: str) -> int:
        return len(self.all)

    def at(self, source: str, rank: int) -> Candidate:
        return self.all[rank]


def candidate(seq: int, media: str = "", talk: str | None = None, turn: int = 0, text: str | None = None) -> Candidate:
    instruction = f"question {seq}" if text is None else text
    return Candidate(
        seq=seq, source="s", id=f"id{seq}", instruction=instruction, media=media, conversation=talk, turn=turn
    )


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from([None, "t", "u"])), min_size=1, max_size=12),
    st.integers(0, 5),
    st.integers(0, 3),
    st.permutations(sorted(STRATEGIES)),
)
def test_context_is_distinct_bounded_and_never_the_query(
    rows: list[tuple[str, str | None]], shots: int, seed: int, strategies: list[str]
) -> None:
    pool = ListPool([candidate(n, media, talk, n) for n, (media, talk) in enumerate(rows)])
    for query in pool.all:
        chosen = choose(query, pool, strategies, shots, seed)
        places = [choice.seq for choice in chosen]
        assert len(places) <= shots
        assert len(set(places) | {query.seq}) == len(places) + 1
        assert chosen == choose(query, pool, strategies, shots, seed)


def test_random_never_shows_the_query_s_picture_and_depends_on_the_seed() -> None:
    pool = ListPool([candidate(n, media=f"picture {n // 3}") for n in range(60)])
    draws = []
    for seed in range(3):
        chosen = [choose(query, pool, ("random",), 4, seed) for query in pool.all]
        for query, choices in zip(pool.all, chosen, strict=True):
            assert len(choices) == 4
            assert all(pool.all[choice.seq].media != query.media for choice in choices)
        draws.append(str(chosen))
    assert len(set(draws)) == 3


def test_conversation_takes_the_turns_right_before() -> None:
    pool = ListPool([candidate(n, media="p", talk="t", turn=n) for n in range(5)])
    chosen = choose(pool.all[4], pool, AUTO, 2, 0)
    assert [(choice.seq, choice.relation) for choice in chosen] == [(3, "conversation"), (2, "conversation")]


def test_later_turns_never_become_context() -> None:
    pool = ListPool(
        [candidate(n, media="p", talk="t", turn=n) for n in range(5)], related={"id1": ["id0", "id3", "id4"]}
    )
    chosen = choose(pool.all[1], pool, AUTO, 4, 0)
    assert [choice.seq for choice in chosen] == [0]


def test_related_keeps_the_published_order_and_comes_before_random() -> None:
    pool = ListPool([candidate(n) for n in range(30)], related={"id0": ["id7", "id3", "gone", "id9"]})
    chosen = choose(pool.all[0], pool, AUTO, 4, 0)
    assert [(choice.seq, choice.relation) for choice in chosen[:3]] == [(7, "related"), (3, "related"), (9, "related")]
    assert chosen[3].relation == "random"


def test_same_media_never_repeats_the_question() -> None:
    pool = ListPool([candidate(0, "p", text="what?"), candidate(1, "p", text="what?"), candidate(2, "p", text="who?")])
    assert [choice.seq for choice in choose(pool.all[0], pool, ("same-media",), 3, 0)] == [2]


@pytest.mark.parametrize("count", [2, 3, 60, 64])
def test_same_media_finds_the_only_other_question_wherever_it_stands(count: int) -> None:
    for place in range(count):
        pool = ListPool([candidate(n, "p", text="who?" if n == place else "what?") for n in range(count)])
        query = pool.all[(place + 1) % count]
        assert [choice.seq for choice in choose(query, pool, ("same-media",), 2, 0)] == [place]


def test_same_media_draws_from_all_that_show_the_picture() -> None:
    pool = ListPool([candidate(n, "p") for n in range(300)])
    chosen = [choice.seq for query in pool.all for choice in choose(query, pool, ("same-media",), 2, 0)]
    assert len(chosen) == 600
    assert len(set(chosen)) > 240  # of 300: what falls of 600 draws on each is about two


@pytest.mark.parametrize("text", ["nearest", "random,random", "", "related,"])
def test_unknown_strategies_are_named(text: str) -> None:
    with pytest.raises(UsageError, match="--context"):
        parse_strategies(text)
