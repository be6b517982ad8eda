"""The VQA accuracy of ten people, computed by hand, and what counts as the same answer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.records import Sample
from otter_train.evaluation.metrics import human_answers, plain_answer, vqa_accuracy
from tests.factories import strategies


@pytest.mark.parametrize(("agreeing", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_how_many_of_ten_agree(agreeing: int, accuracy: float) -> None:
    people = ["net"] * agreeing + ["racket"] * (10 - agreeing)
    assert vqa_accuracy("net", people) == pytest.approx(accuracy)


def test_every_accuracy_and_clean_up_is_that_of_the_official_scorer() -> None:
    golden = json.loads((Path(__file__).parents[2] / "golden" / "vqa_accuracy.json").read_text(encoding="utf-8"))
    assert {text: plain_answer(text) for text in golden["plain"]} == golden["plain"]
    for case in golden["accuracy"]:
        assert vqa_accuracy(case["answer"], case["humans"]) == pytest.approx(case["accuracy"], abs=1e-6), case


@given(st.text("ab", max_size=1), st.lists(st.text("ab", max_size=1), min_size=4, max_size=12))
def test_it_is_the_mean_over_people_left_out(answer: str, people: list[str]) -> None:
    scores = [
        min(1, sum(one == answer for one in others) / 3) for others in itertools.combinations(people, len(people) - 1)
    ]
    said = "yes" if answer == "a" else "no"
    spoken = ["yes" if one == "a" else "no" for one in people]
    if "" not in (answer, *people):
        assert vqa_accuracy(said, spoken) == pytest.approx(fmean(scores))
        assert 0 <= vqa_accuracy(said, spoken) <= 1


def test_one_known_answer_is_right_or_wrong() -> None:
    assert (vqa_accuracy("a dog", ["dog"]), vqa_accuracy("cat", ["dog"])) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The two dogs.", "2 dogs"),
        ("don't", "dont"),
        ("U.S.A.", "usa"),
        ("1,000", "1000"),
        ("black-and-white", "black and white"),
        ("None", "zero"),
        ("  A   Net ", "net"),
        ("yes!", "yes"),
    ],
)
def test_people_write_the_same_in_many_ways(one: str, other: str) -> None:
    assert plain_answer(one) == plain_answer(other)


def test_a_number_keeps_its_point() -> None:
    assert plain_answer("2.5") == "2.5" != plain_answer("25")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["net", "", None, 3, "ball"], ["net", "", "ball"]),
        (["", " "], []),
        ("net", []),
        (None, []),
        ([], []),
        ({"a": 1}, []),
    ],
)
@given(drawn=strategies.samples())
def test_answers_of_people_are_read_from_the_meta(answers: object, expected: list[str], drawn: Sample) -> None:
    sample = Sample(
        id=drawn.id, source=drawn.source, media=drawn.media, triplets=drawn.triplets, meta={"answers": answers}
    )
    assert human_answers(sample) == expected
