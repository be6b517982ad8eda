"""The choice of context: never the query, never more than asked, the same whatever the order of work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.context.choose import AUTO, STRATEGIES, choose, parse_strategies
from mimicit.errors import UsageError
from tests.factories.candidates import ListPool, known


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
