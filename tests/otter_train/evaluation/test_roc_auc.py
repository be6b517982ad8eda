"""The area under the ROC curve: golden numbers, what it means, and what a report says of yes and no."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given
from hypothesis import strategies as st

from mimicit.records import Sample
from otter_train.evaluation.metrics import roc_auc
from otter_train.evaluation.report import ALL, lines, summarise
from otter_train.evaluation.scores import Attempt, choices, evaluate
from tests.factories.train import Colours

GOLDEN = Path(__file__).parents[2] / "golden" / "roc_auc.json"


def test_it_is_what_scikit_learn_says() -> None:
    for case in json.loads(GOLDEN.read_text())["cases"]:
        found = roc_auc(np.array(case["scores"]), np.array(case["positive"]))
        assert found == pytest.approx(case["auc"], abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_it_is_the_share_of_pairs_in_order(drawn: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in drawn], dtype=np.float64)
    positive = np.array([is_yes for _, is_yes in drawn])
    pairs = [(one > other) + 0.5 * (one == other) for one in scores[positive] for other in scores[~positive]]
    assert roc_auc(scores, positive) == pytest.approx(sum(pairs) / len(pairs) if pairs else 0.5)


def test_questions_that_offer_yes_and_no_have_one() -> None:
    asked = [
        replace(one, meta={"choices": ["no", "yes"]}, triplets=(*one.context, replace(one.query, answer=answer)))
        for one, answer in ((Colours().get(place), "yes" if place % 3 else "no") for place in range(12))
    ]
    likely = {one.id: 0.9 if one.query.answer == "yes" else 0.4 for one in asked}
    likely[asked[1].id] = 0.2  # one of eight with yes lies below all four with no

    def attempts(samples: Iterable[Sample]) -> Iterator[Attempt]:
        for one in samples:
            yield Attempt(
                one, "", 0.5, 2, "yes" if choices(one) else None, likely.get(one.id) if choices(one) else None
            )

    report = evaluate([*asked, *(Colours().get(place) for place in range(3))], attempts)
    summaries = summarise(report, seed=0)
    found = summaries[ALL]
    assert (found.yes_or_no, found.auc.value) == (12, 7 / 8)
    assert found.auc.low <= 7 / 8 <= found.auc.high
    assert found.to_json()["auc"]["value"] == 7 / 8
    assert any("87.5  0 shots, all: ROC AUC × 100" in line for line in lines([report], [summaries], seed=0))
    without = evaluate([Colours().get(0)], attempts)
    assert not any("ROC" in line for line in lines([without], [summarise(without, seed=0)], seed=0))
