"""The guards: whatever the neighbours are, no context gives the answer away, and no picture is shown twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.context.candidates import SIMILAR, By, Guards, Likeness, is_leak, similar
from mimicit.context.choose import choose, parse_strategies
from tests.factories.candidates import Known, ListPool, known


class LikePool(ListPool):
    """Neighbours in the order of the list, with falling scores."""

    def __init__(self, rows: list[tuple[Known, Likeness]]) -> None:
        super().__init__([row[0] for row in rows])
        self.marks = [row[1] for row in rows]

    def neighbours(self, row: int, by: By) -> Iterator[tuple[int, float]]:
        for place in self.rows:
            yield place, 1 - place / 10

    def likeness(self, row: int) -> Likeness:
        return self.marks[row]


def likeness(
    question: int = 0,
    answer: int = 0,
    pictures: tuple[str, ...] = (),
    look: int | None = None,
    *,
    sentence: bool = False,
    closed: bool = False,
) -> Likeness:
    return Likeness(
        question=question,
        answer=answer,
        sentence=sentence,
        closed=closed,
        pictures=frozenset(pictures),
        looks=() if look is None else (look,),
    )


def pool_of(*marks: Likeness, conversation: str | None = None) -> LikePool:
    return LikePool([(known(n, ",".join(sorted(one.pictures)), conversation), one) for n, one in enumerate(marks)])


rows = st.lists(
    st.builds(
        likeness,
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from([(), ("a",), ("b",), ("a", "c"), ("d",)]),
        st.sampled_from([None, 0b0, 0b111, 0b1111, 2**64 - 1]),
        sentence=st.booleans(),
        closed=st.booleans(),
    ),
    min_size=1,
    max_size=9,
)


@given(rows, st.integers(0, 6), st.sampled_from(sorted(SIMILAR)))
def test_no_context_leaks_and_no_picture_is_shown_twice(marks: list[Likeness], shots: int, name: str) -> None:
    pool = pool_of(*marks)
    for query in pool.rows:
        mine = pool.likeness(query)
        chosen = choose(query, pool, (name,), shots, 0)
        assert len(chosen) <= shots
        shown: set[str] = set()
        looks = list(mine.looks)
        for choice in chosen:
            theirs = pool.marks[choice.row]
            assert choice.row != query
            assert (theirs.question, theirs.answer) != (mine.question, mine.answer)
            assert mine.pictures.isdisjoint(theirs.pictures)
            assert shown.isdisjoint(theirs.pictures)
            if theirs.pictures:
                assert all((one ^ two).bit_count() > 3 for one in mine.looks for two in theirs.looks)
            shown |= theirs.pictures
            looks += theirs.looks
        assert [choice.score for choice in chosen] == sorted((choice.score for choice in chosen), reverse=True)


@pytest.mark.parametrize(
    ("query", "other", "leaks"),
    [
        (likeness(1, 1), likeness(2, 2), False),
        (likeness(1, 1), likeness(1, 1), True),  # a duplicate
        (likeness(1, 1), likeness(1, 2), False),  # the same open question
        (likeness(1, 1, closed=True), likeness(1, 2), True),  # by elimination
        (likeness(1, 1, closed=True), likeness(2, 1), False),  # "yes" to another question
        (likeness(1, 1, sentence=True), likeness(2, 1), True),  # the same caption under another instruction
        (likeness(1, 1, ("a",)), likeness(2, 2, ("a",)), True),  # the query's picture
        (likeness(1, 1, ("a", "b")), likeness(2, 2, ("b",)), True),  # one of them
        (likeness(1, 1, ("a",), 0), likeness(2, 2, ("b",), 0b111), True),  # recompressed
        (likeness(1, 1, ("a",), 0), likeness(2, 2, ("b",), 0b1111), False),
    ],
)
def test_what_a_leak_is(query: Likeness, other: Likeness, leaks: bool) -> None:
    assert is_leak(query, other, Guards()) is leaks


def test_what_the_options_lift() -> None:
    same_media, same_answer = Guards(allow_same_media=True), Guards(allow_same_answer=True)
    query = likeness(1, 1, ("a",), closed=True, sentence=True)
    assert not is_leak(query, likeness(2, 2, ("a",)), same_media)
    assert is_leak(query, likeness(1, 2, ("a",)), same_media)
    assert is_leak(query, likeness(2, 1, ("a",)), same_media)
    assert is_leak(query, likeness(2, 2, ("a",)), same_answer)
    assert not is_leak(query, likeness(1, 1, ("b",)), same_answer)
    assert is_leak(query, likeness(1, 1, ("b",)), same_media)


def test_scores_below_the_least_are_left_out() -> None:
    pool = pool_of(*(likeness(n, n) for n in range(6)))
    found = [score for _, score in similar(0, pool, "text", Guards(min_score=0.7))]
    assert found == [0.9, 0.8, 0.7]


def test_turns_of_the_query_s_talk_are_no_neighbours() -> None:
    pool = pool_of(*(likeness(n, n) for n in range(4)), conversation="t")
    assert choose(3, pool, ("text-similar",), 2, 0) == []


def test_strategies_in_a_row_share_no_picture_and_fill_up() -> None:
    marks = [likeness(n, n, (f"p{n // 2}",)) for n in range(8)]
    chosen = choose(0, pool_of(*marks), parse_strategies("text-similar,both"), 8, 0)
    assert [(choice.row, choice.relation) for choice in chosen] == [
        (2, "text_similar"), (4, "text_similar"), (6, "text_similar"),
    ]  # fmt: skip
    more = choose(0, pool_of(*marks), ("image-similar", "random"), 5, 0)
    assert [choice.relation for choice in more] == ["image_similar"] * 3 + ["random"] * 2
    assert all(choice.score is None for choice in more[3:])


def test_text_without_pictures_is_not_repeated() -> None:
    pool = pool_of(likeness(9, 9), likeness(1, 1), likeness(1, 1), likeness(1, 2))
    assert [one for one, _ in similar(0, pool, "text", Guards())] == [1, 3]
