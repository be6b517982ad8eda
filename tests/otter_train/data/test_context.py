"""Dropping and shuffling context: pictures stay with the turns about them, and the query stays last."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given
from hypothesis import strategies as st

from mimicit.prompt import drop_context
from mimicit.records import Media, Sample, Triplet
from otter_train.data.encoding import shuffle_context
from tests.factories import strategies
from tests.factories.train import conversation, image, png, sample, triplet

RED = png((255, 0, 0))


def shown(drawn: Sample) -> list[tuple[str, tuple[Media, ...]]]:
    """Each triplet's words with what they are about: the media shown last."""
    last: tuple[Media, ...] = ()
    result = []
    for one in drawn.triplets:
        last = tuple(drawn.media[index] for index in one.media) or last
        result.append((f"{one.instruction}\0{one.answer}\0{one.id}", last))
    return result


@given(strategies.samples(), st.data())
def test_dropping_context_keeps_what_is_left_in_order(drawn: Sample, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(drawn.context)))
    left = drop_context(drawn, count)
    assert shown(left) == shown(drawn)[count:]
    assert [index for one in left.triplets for index in one.media] == list(range(len(left.media)))


@pytest.mark.parametrize(("dropped", "origins"), [(0, ["one", "two"]), (1, ["two"]), (2, ["two"]), (3, ["two"])])
def test_the_picture_that_a_later_turn_is_about_stays(dropped: int, origins: list[str]) -> None:
    left = drop_context(conversation(), dropped)
    assert [medium.origin for medium in left.media] == origins
    assert left.triplets[0].media == (0,)


@given(strategies.samples(), st.integers(0, 5))
def test_shuffling_moves_triplets_with_what_they_are_about(drawn: Sample, seed: int) -> None:
    moved = shuffle_context(drawn, seed)
    assert sorted(map(repr, shown(moved))) == sorted(map(repr, shown(drawn)))
    assert shown(moved)[-1] == shown(drawn)[-1] and moved.query.role == "query"
    assert [index for one in moved.triplets for index in one.media] == list(range(len(moved.media)))
    assert shuffle_context(drawn, seed) == moved


def crowd(count: int, id: str = "crowd") -> Sample:
    """A query after ``count`` triplets, each about a picture of its own."""
    triplets = [triplet(f"q{n}", media=[n], relation="random") for n in range(count + 1)]
    return sample(*triplets, media=[image(RED, origin=str(n)) for n in range(count + 1)], id=id)


def words(drawn: Sample) -> list[str]:
    return [one.instruction for one in drawn.triplets]


def test_every_order_is_drawn_and_the_seed_and_the_sample_decide() -> None:
    orders = {tuple(words(shuffle_context(crowd(3), seed))) for seed in range(100)}
    assert len(orders) == 6 and {order[-1] for order in orders} == {"q3"}
    others = {tuple(words(shuffle_context(crowd(3, id=str(n)), 0))) for n in range(100)}
    assert others == orders
    moved = shuffle_context(crowd(5), 1)
    assert [medium.origin for medium in moved.media] == [word.removeprefix("q") for word in words(moved)]


@pytest.mark.parametrize("relation", ["conversation", "document"])
def test_what_has_an_order_of_its_own_keeps_it(relation: str) -> None:
    ordered = sample(
        *(triplet(f"q{n}", media=[n], relation=relation) for n in range(6)), media=[image(RED) for _ in range(6)]
    )
    assert all(shuffle_context(ordered, seed) == ordered for seed in range(20))


def test_text_before_any_picture_never_comes_after_one() -> None:
    text: Triplet = triplet("text", relation="random")
    pictures = [triplet(f"q{n}", media=[n], relation="random") for n in range(4)]
    mixed = sample(text, *pictures, media=[image(RED) for _ in range(4)])
    assert {words(shuffle_context(mixed, seed))[0] for seed in range(20)} == {"text"}
