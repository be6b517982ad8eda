"""What is said of context: counts that can be checked by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from mimicit.errors import CorruptShardError
from mimicit.inspecting.context_quality import agreement_by_chance, context_quality, fault_of_context
from mimicit.records import Sample, Triplet


def triplet(
    id: str, answer: str, *, question: str = "What?", relation: str = "", score: float | None = None
) -> Triplet:
    role = "context" if relation else "query"
    return Triplet(
        id=id, role=role, media=(), instruction=question, answer=answer, relation=relation or None, score=score
    )


def sample(id: str, answer: str, *context: Triplet, source: str = "own") -> Sample:
    return Sample(id=id, source=source, media=(), triplets=(*context, triplet(id, answer)))


LONG = "A red kite flies over the lake"


@pytest.mark.parametrize(
    ("context", "fault"),
    [
        (triplet("q", "yes", relation="random"), "is the query itself"),
        (triplet("c", LONG, relation="random"), "says the query's answer to the same question"),
        (triplet("c", f"Look:  {LONG.upper()}.", question="Why?", relation="random"), "word for word"),
        (triplet("c", "no", question=f"Why do you say: {LONG}?", relation="random"), "word for word"),
        (triplet("c", "A red kite", question="Why?", relation="random"), ""),
    ],
)
def test_what_gives_an_answer_away(context: Triplet, fault: str) -> None:
    found = fault_of_context(context, triplet("q", LONG))
    assert fault in found and bool(fault) == bool(found)


def test_a_short_answer_in_the_context_is_no_fault() -> None:
    assert fault_of_context(triplet("c", "yes", question="Why?", relation="random"), triplet("q", "yes")) == ""


def test_relations_are_counted_apart_and_compared_with_chance() -> None:
    def near(id: str, answer: str, score: float) -> Triplet:
        return triplet(id, answer, question="And?", relation="text_similar", score=score)

    samples = [
        sample("1", "yes", near("a", "Yes.", 0.95), near("b", "no", 0.31)),
        sample("2", "yes", near("c", "yes", 1.0), triplet("d", "no", question="So?", relation="random")),
        sample("3", "no", near("e", "no", -0.05)),
        sample("4", "red", source="other"),
        sample("5", "red", triplet("d", "red", question="So?", relation="random"), source="other"),
        sample("6", "", triplet("6", "text", relation="document")),
    ]
    found = context_quality(samples.__getitem__, range(len(samples)))
    near_ones, drawn = found.relations
    assert (near_ones.relation, near_ones.triplets, near_ones.same_answer) == ("text_similar", 4, 3)
    answers = Counter({"yes": 2, "no": 1, "": 1})
    assert near_ones.by_chance == pytest.approx(agreement_by_chance(answers)) == pytest.approx(2 / 12)
    assert (near_ones.least, near_ones.most) == (-0.05, 1.0)
    assert near_ones.mean == pytest.approx((0.95 + 0.31 + 1.0 - 0.05) / 4)
    assert [lower for lower, _ in near_ones.histogram] == [number / 10 for number in range(-1, 10)]
    assert {lower: count for lower, count in near_ones.histogram if count} == {-0.1: 1, 0.3: 1, 0.9: 2}
    assert (drawn.relation, drawn.triplets, drawn.scored, drawn.mean) == ("random", 2, 0, None)
    assert drawn.by_chance == pytest.approx((2 / 12 + 1) / 2), "half of it is of a source that always says the same"
    assert [(one.row, one.place) for one in found.most_alike] == [(1, 0), (0, 0)]
    assert [(one.row, one.place) for one in found.least_alike] == [(2, 0), (0, 1)]
    assert (found.samples, found.judged, found.without_context, found.leaked) == (6, 6, 1, 0)


def test_of_many_samples_an_even_part_is_judged_and_damaged_ones_are_counted() -> None:
    asked = []

    def peek(row: int) -> Sample:
        asked.append(row)
        if row == 300:
            raise CorruptShardError("row 300")
        return sample(str(row), "yes", triplet(str(row), "yes", relation="related", score=row / 1000))

    found = context_quality(peek, range(0, 1000, 2), most_samples=10)
    assert asked == list(range(0, 1000, 100))
    assert (found.samples, found.judged, found.unreadable) == (500, 9, 1)
    assert found.leaked == 9 and {pair.fault for pair in found.leaks} == {"is the query itself"}
    assert {pair.row for pair in found.most_alike} & {pair.row for pair in found.least_alike} == set()


def test_chance_is_that_of_two_different_records() -> None:
    assert agreement_by_chance({"a": 1}) == agreement_by_chance({}) == 0.0
    assert agreement_by_chance({"a": 3}) == 1.0
    assert math.isclose(agreement_by_chance({"a": 2, "b": 2}), 1 / 3)
