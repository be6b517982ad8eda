"""Accuracy and the baselines beside it: each can be computed by hand here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import TrainError
from mimicit.records import Sample
from mimicit.schema import canonical_json
from otter_train.data.encoding import PromptEncoder
from otter_train.evaluation.report import ALL, draw, gained_by_looking, lines, measure, summarise, to_json
from otter_train.evaluation.scores import (
    Answered,
    Attempt,
    Report,
    choices,
    evaluate,
    is_right,
    other_pictures,
    question_accuracy,
    with_shots,
)
from tests.factories.train import COLOURS, TOKENIZER, Colours, image, png, sample, triplet


def looking(samples: Iterable[Sample]) -> Iterator[Attempt]:
    """A model that names the colour of the picture it is shown."""
    names = {image(png(value)).sha256: name for name, value in COLOURS.items()}
    for one in samples:
        yield Attempt(one, names[one.media[-1].sha256], 0.5, 2)


def blind(samples: Iterable[Sample]) -> Iterator[Attempt]:
    """A model that always says the same."""
    for one in samples:
        yield Attempt(one, " Red. ", 3.0, 2)


def surer_of_the_right(samples: Iterable[Sample]) -> Iterator[Attempt]:
    """A model to which the true answer is 2 nats per token less likely where the picture shows something else."""
    for attempt in looking(samples):
        is_true = attempt.answer == attempt.sample.query.answer
        yield attempt._replace(nats=1.0 if is_true else 5.0)


def test_what_cannot_be_shown_is_left_out_counted_and_named() -> None:
    samples = Colours(count=6)
    encoder = PromptEncoder(TOKENIZER, max_tokens=16)
    crowded = sample(triplet(media=range(30)), media=[image(png(COLOURS["red"]))] * 30, id="crowded")
    mixed = [samples.get(0), crowded, *(samples.get(number) for number in range(1, 6)), replace(crowded, id="more")]
    report = evaluate(mixed, looking, why_not=encoder.why_not, baselines=True)
    assert [one.position for one in report.answered] == [0, 2, 3, 4, 5, 6] and report.skipped == 0
    assert ["crowded" in report.left_out[0], "more" in report.left_out[1]] == [True, True]
    assert exact(report) == 1.0 and report.to_json()["left_out"] == list(report.left_out)
    (line,) = [line for line in lines([report], [summarise(report, seed=0)], seed=0) if "left out" in line]
    assert line.startswith("2 left out with 0 shots: sample 'crowded'") and "--max-tokens" in line
    with pytest.raises(TrainError, match=r"none of 1 samples can be shown; sample 'crowded'"):
        evaluate([crowded], looking, why_not=encoder.why_not)


def exact(report: Report) -> float:
    return measure(report.answered, seed=0).exact.value


def test_one_who_looks_is_told_from_one_who_does_not() -> None:
    samples = Colours(count=12)
    seeing = evaluate(samples, looking, baselines=True)
    assert (exact(seeing), seeing.swapped_pictures) == (1.0, 0.0)
    assert seeing.majority == seeing.question_only == 0.25
    unseeing = evaluate(samples, blind, baselines=True)
    assert exact(unseeing) == unseeing.swapped_pictures == 0.25
    assert {name: len(group) for name, group in seeing.by_source.items()} == {"test": 12}


def test_the_loss_with_other_pictures_is_compared_query_by_query() -> None:
    samples = Colours(count=12)
    seeing = gained_by_looking(evaluate(samples, surer_of_the_right, baselines=True), seed=0)
    assert seeing is not None and seeing.value == pytest.approx(2.0) and seeing.low > 1.9
    assert gained_by_looking(evaluate(samples, blind, baselines=True), seed=0) == (0.0, 0.0, 0.0)
    assert gained_by_looking(evaluate(samples, blind), seed=0) is None


def test_numbers_per_shots_and_source() -> None:
    samples = [replace(Colours().get(place), source="ab"[place % 2]) for place in range(12)]
    reports = [evaluate(samples, looking, shots=0), evaluate(samples, blind, shots=1)]
    summaries = [summarise(report, seed=0) for report in reports]
    assert [list(summary) for summary in summaries] == [[ALL, "a", "b"]] * 2
    seeing, unseeing = (summary[ALL] for summary in summaries)
    assert (seeing.queries, seeing.context, unseeing.context, seeing.with_humans) == (12, 0.0, 1.0, 0)
    assert seeing.loss == (0.25, 0.25, 0.25) and seeing.perplexity == pytest.approx(math.exp(0.25))
    assert seeing.exact == seeing.vqa == (1.0, 1.0, 1.0)
    assert unseeing.exact.low < unseeing.exact.value < unseeing.exact.high
    assert summarise(reports[1], seed=0) == summaries[1]
    table = list(lines(reports, summaries, seed=0))
    assert [line.split()[:3] for line in table[1:7]] == [
        [shots, name, count] for shots in "01" for name, count in ((ALL, "12"), ("a", "6"), ("b", "6"))
    ]
    value = to_json(reports, summaries, seed=0)
    assert [one["shots"] for one in value] == [0, 1] and len(value[1]["answers"]) == 12
    assert value[0]["all"]["exact"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert set(value[0]["by_source"]) == {"a", "b"}
    assert draw(reports, summaries).startswith(b"\x89PNG")


def test_ten_answers_are_compared_with_where_they_are_known() -> None:
    people = ["red"] * 2 + ["dark red"] * 8
    asked = replace(Colours().get(0), meta={"answers": people, "question_type": "what"})
    report = evaluate([asked], blind)
    assert report.answered[0].humans == 10
    assert measure(report.answered, seed=0).vqa.value == pytest.approx(0.6)


def test_of_no_sample_everything_is_nought() -> None:
    summary = measure([], seed=0)
    assert (summary.queries, summary.loss, summary.exact) == (0, (0.0,) * 3, (0.0,) * 3)


def test_the_ceilings_know_the_answers() -> None:
    assert question_accuracy(["a", "a", "a", "b"], ["x", "X ", "y", "y"]) == 0.75
    assert question_accuracy([""] * 4, ["x", "X ", "y", "z"]) == 0.5
    assert question_accuracy([], []) == 0.0


def test_no_baseline_unless_asked_and_a_limit() -> None:
    report = evaluate(Colours(count=12), looking, limit=5)
    assert len(report.answered) == 5
    assert report.majority is report.question_only is report.swapped_pictures is None


@pytest.mark.parametrize("shots", [0, 1, 5])
def test_context_is_cut_to_the_shots_and_the_picture_stays(shots: int) -> None:
    whole = Colours().get(0)
    left = with_shots(whole, shots)
    assert len(left.context) == min(shots, 1)
    assert left.media == whole.media and left.triplets[0].media == (0,)


def test_documents_ask_nothing_and_are_counted() -> None:
    document = sample(triplet("", "some text", relation="document"))
    report = evaluate([document, Colours().get(0)], looking)
    assert (report.skipped, len(report.answered)) == (1, 1)
    assert report.answered[0].position == 1


@pytest.mark.parametrize(("answer", "truth", "right"), [("Yes.", "yes", True), (" no", "no", True), ("n", "no", False)])
def test_capitals_and_a_final_stop_do_not_matter(answer: str, truth: str, right: bool) -> None:
    assert is_right(answer, truth) is right


def answered(position: int, kinds: str, content: int) -> Answered:
    media = tuple((kind, (f"{content}",)) for kind in kinds)
    return Answered(
        position=position,
        id="",
        source="",
        origin="",
        media=media,
        shots=0,
        question="",
        answer="",
        truth="",
        nats=0.0,
        tokens=0,
        vqa=0.0,
        humans=0,
    )


@given(st.lists(st.tuples(st.sampled_from(["", "i", "ii", "v"]), st.integers(0, 6)), max_size=40))
def test_swapped_pictures_are_never_ones_own(drawn: list[tuple[str, int]]) -> None:
    every = [answered(position, kinds, content) for position, (kinds, content) in enumerate(drawn)]
    pairs = other_pictures(every)
    for mine, other in pairs:
        assert drawn[mine][0] == drawn[other][0] != ""
        assert drawn[mine][1] != drawn[other][1]
    assert len({mine for mine, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)
    for kinds in ("i", "ii", "v"):
        contents = [content for kind, content in drawn if kind == kinds]
        if contents and 2 * max(map(contents.count, contents)) <= len(contents):
            assert sum(drawn[mine][0] == kinds for mine, _ in pairs) == len(contents)


def test_without_any_other_picture_there_is_no_such_baseline() -> None:
    same = [replace(Colours().get(0), id=str(number)) for number in range(4)]
    assert evaluate(same, looking, baselines=True).swapped_pictures is None


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        *((answer, True) for answer in ("dog", "B", "(b)", "B. dog", "B: Dog.")),
        *((answer, False) for answer in ("A", "A. dog", "B. cat", "b dog", "")),
    ],
)
def test_a_letter_answers_a_question_that_lists_choices(answer: str, right: bool) -> None:
    assert is_right(answer, "dog", letter="B") == right
    assert is_right(answer, "dog") == (answer == "dog")


def test_choices_are_counted_beside_what_guessing_reaches() -> None:
    colours = Colours()
    four = {"choices": ["red", "green", "blue", "white"]}
    offering = [replace(colours.get(place), meta=four, source="quiz") for place in range(8)]
    plain = [colours.get(place) for place in range(4)]

    def choosing(samples: Iterable[Sample]) -> Iterator[Attempt]:
        for one in samples:
            yield Attempt(one, "", 0.5, 2, "red" if choices(one) else None)

    report, without = evaluate([*offering, *plain], choosing), evaluate(plain, choosing)
    summaries = summarise(report, seed=0)
    found = summaries[ALL]
    assert (found.queries, found.with_choices, found.chance) == (12, 8, 0.25)
    assert found.choice.value == sum(one.query.answer == "red" for one in offering) / 8
    assert b'"chance":0.25' in canonical_json(found.to_json())
    text = "\n".join(lines([report], [summaries], seed=0))
    for name in (ALL, "quiz"):
        assert f"0 shots, {name}: the likeliest choice is right, of 8" in text and f"0 shots, {name}: ANLS" in text
    assert not any("choice" in line for line in lines([without], [summarise(without, seed=0)], seed=0))


@pytest.mark.parametrize("offered", [None, "red", ["blue"], [], {"red": 1}])
def test_choices_without_the_truth_are_none(offered: object) -> None:
    one = next(Colours().get(place) for place in range(9) if Colours().get(place).query.answer == "red")
    assert choices(replace(one, meta={"choices": offered})) == []
    assert choices(replace(one, meta={"choices": ["red", 7, " ", "blue"]})) == ["red", "blue"]
