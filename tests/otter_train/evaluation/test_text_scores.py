"""CIDEr as the benchmark's own code gives it, ANLS by hand, and where an evaluation prints them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given
from hypothesis import strategies as st

from otter_train.evaluation.metrics import anls, caption_words, cider
from otter_train.evaluation.report import ALL, lines, measure, summarise
from otter_train.evaluation.scores import Attempt, evaluate
from tests.factories.train import Colours

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "cider.json").read_text(encoding="utf-8"))


def test_cider_is_that_of_the_benchmark() -> None:
    rows = GOLDEN["rows"]
    scores = cider([row["caption"] for row in rows], [row["references"] for row in rows])
    assert len(rows) == 200
    assert scores == pytest.approx([row["score"] for row in rows], abs=1e-8)
    assert fmean(scores) == pytest.approx(GOLDEN["mean"], abs=1e-8)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog can't jump; it won't either.", "a man 's dog ca n't jump it wo n't either"),
        ("I cannot, gonna, wanna go, lemme see, gotta.", "i can not gon na wan na go lem me see got ta"),
        ("It costs $5.99 (or £3)! 50% off: 1,000...", "it costs $ 5.99 -lrb- or # 3 -rrb- 50 % off 1,000"),
        ("Mr. Smith's U.S. flag at 10:30 a.m. on St. Paul St.", "mr. smith 's u.s. flag at 10:30 a.m. on st. paul st."),
        ("a 3-year-old's 4x4, two-story house and/or 1/2", "a 3-year-old 's 4x4 two-story house and/or 1/2"),
        ("don’t use ‘curly’ “quotes” — or dashes…", "do n't use curly quotes or dashes"),
        ("AT&T’s C++ and C# at http://x.com/a?b=c", "at&t 's c++ and c# at http://x.com/a?b=c"),
        ("café 日本語 emoji 😀 here, what?! really!!", "café 日本語 emoji here what ?! really !!"),
        ("'Tis y'all's o'clock, ma'am - no. 5", "'t is y' all 's o'clock ma'am no. 5"),
        (" ... - ' ", ""),
    ],
)
def test_words_are_those_of_the_benchmark(caption: str, words: str) -> None:
    assert " ".join(caption_words(caption)) == words


def test_cider_of_what_is_equal_shared_by_all_and_absent() -> None:
    written = [["a red car on a road"], ["two dogs in the snow"], ["a bowl of soup"]]
    assert cider(["A red car on a road.", "two dogs in the snow", ""], written) == pytest.approx([10, 10, 0])
    assert cider(["a red car"], [["a red car"]]) == [0.0]  # a set of one picture tells nothing of what is rare
    assert cider([], []) == []
    with pytest.raises(ValueError):
        cider(["a"], [])


@given(st.lists(st.tuples(st.text(max_size=20), st.lists(st.text(max_size=20), min_size=1, max_size=3)), max_size=5))
def test_cider_of_any_text_lies_between_0_and_10(rows: list[tuple[str, list[str]]]) -> None:
    assert all(0 <= score <= 10 + 1e-9 for score in cider([row[0] for row in rows], [row[1] for row in rows]))


@pytest.mark.parametrize(
    ("answer", "truths", "score"),
    [
        ("Tea Room", ["tea  room"], 1.0),
        ("tea rom", ["coffee", "tea room"], 7 / 8),
        ("tea", ["tea room"], 0.0),  # 3 of 8 letters
        ("abcd", ["abxy"], 0.5),
        ("", [""], 1.0),
        ("x", [], 0.0),
    ],
)
def test_anls_by_hand(answer: str, truths: list[str], score: float) -> None:
    assert anls(answer, truths) == pytest.approx(score)


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_anls_is_one_for_equals_and_the_same_both_ways(one: str, other: str) -> None:
    assert anls(one, [one]) == 1.0
    assert anls(one, [other]) == anls(other, [one])


def test_an_evaluation_scores_each_picture_with_several_captions_once() -> None:
    rng = random.Random(0)
    written = [[f"a {rng.choice(['red', 'blue', 'green'])} thing number {place} {word}" for word in ("here", "there")]
               for place in range(4)]  # fmt: skip
    samples = []
    for place in range(8):  # two queries about each of four pictures
        one = Colours(count=4).get(place // 2)
        query = replace(one.query, instruction="Describe it.", answer=written[place // 2][place % 2])
        samples.append(replace(one, triplets=(*one.context, query)))
    report = evaluate(samples, lambda asked: (Attempt(one, written[0][0], 1.0, 2) for one in asked))
    found = measure(report.answered, seed=0)
    expected = cider([written[0][0]] * 4, written)
    assert found.captioned == 4 and found.cider.value == pytest.approx(fmean(expected))
    assert found.anls.value == pytest.approx(fmean(one.anls for one in report.answered))
    text = "\n".join(lines([report], [summarise(report, seed=0)], seed=0))
    assert "0 shots, all: CIDEr × 100, of 4 pictures with several captions each" in text
    assert found.to_json()["cider"]["value"] == found.cider.value


def test_captions_of_a_build_ask_the_same_in_other_words() -> None:
    """The instruction of a caption is drawn from a pool, so those of one picture have different ones."""
    asked = ["Describe this picture.", "What does this picture show?", "What is on the sofa?"]
    samples = [
        replace(one, triplets=(*one.context, replace(one.query, instruction=words, answer=f"a {words}")))
        for one in (Colours(count=2).get(place) for place in range(2))
        for words in asked
    ]
    report = evaluate(samples, lambda them: (Attempt(one, "a cat", 1.0, 2) for one in them))
    assert summarise(report, seed=0)[ALL].captioned == 2
    alone = evaluate(samples[:1] + samples[2:4], lambda them: (Attempt(one, "a cat", 1.0, 2) for one in them))
    assert summarise(alone, seed=0)[ALL].captioned == 0


def test_references_of_the_meta_are_captions_too() -> None:
    samples = [replace(Colours(count=2).get(place), meta={"references": [f"a cat {place}", f"cat {place} sits", 3]})
               for place in range(2)]  # fmt: skip
    report = evaluate(samples, lambda asked: (Attempt(one, "a cat 0", 1.0, 2) for one in asked))
    assert [one.references for one in report.answered] == [("a cat 0", "cat 0 sits"), ("a cat 1", "cat 1 sits")]
    assert summarise(report, seed=0)[ALL].captioned == 2


def test_a_set_without_captions_prints_no_cider() -> None:
    report = evaluate(Colours(count=4), lambda asked: (Attempt(one, "red", 1.0, 2) for one in asked))
    assert "CIDEr" not in "\n".join(lines([report], [summarise(report, seed=0)], seed=0))
