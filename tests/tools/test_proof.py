"""The table of the proof: which question is of which kind, means over runs, and how far they could be off."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given
from hypothesis import strategies as st

from otter_train.reporting.metrics import Row
from tools.proof.curves import draw, losses
from tools.proof.scores import KINDS, across, by_kind, kind_of, table


@pytest.mark.parametrize(
    ("question", "truth", "kind"),
    [
        ("what color is the shape?", "teal", "colour"),
        ("what is the color of the triangle?", "red", "colour"),
        ("what shape is in the image?", "circle", "shape"),
        ("is there a teal shape?", "no", "colour, yes or no"),
        ("does the image not contain a rectangle?", "yes", "shape, yes or no"),
    ],
)
def test_every_question_has_one_kind(question: str, truth: str, kind: str) -> None:
    assert kind_of(question, truth) == kind and kind in KINDS


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_the_mean_lies_among_the_runs_and_equal_runs_leave_no_doubt(values: list[float]) -> None:
    score = across(values)
    assert min(values) - 1e-9 <= score.mean <= max(values) + 1e-9
    assert score.margin >= 0
    assert across([values[0]] * 3).margin == pytest.approx(0, abs=1e-9)


def test_three_runs_have_the_interval_of_student() -> None:
    score = across([0.90, 0.92, 0.94])
    assert score.mean == pytest.approx(0.92)
    assert score.margin == pytest.approx(4.30 * 0.02 / math.sqrt(3))
    assert math.isnan(across([0.5]).margin)
    with pytest.raises(ValueError, match="no run"):
        across([])


def evaluation(rights: list[bool]) -> dict[str, object]:
    asked = [("what shape is it?", "circle"), ("is it red?", "no"), ("is there a circle?", "yes")]
    answers = [
        {"question": question, "truth": truth, "is_right": right}
        for (question, truth), right in zip(asked, rights, strict=True)
    ]
    return {
        "results": [
            {
                "answers": answers,
                "all": {"exact": {"value": sum(rights) / 3}},
                "baselines": {"majority": 0.4, "question_only": 0.67, "swapped_pictures": 0.5},
            }
        ]
    }


def test_the_table_counts_every_kind_of_every_seed() -> None:
    lines = list(table({1: evaluation([True, True, False]), 0: evaluation([True, False, False])}))
    assert "seed 0 | seed 1" in lines[0]
    assert "50.0%" in lines[2] and lines[2].endswith("| 33.3% | 66.7% |")
    assert any("of them: shape |" in line and line.endswith("| 100.0% | 100.0% |") for line in lines)
    assert any("colour, yes or no" in line and line.endswith("| 0.0% | 100.0% |") for line in lines)
    assert not any("of them: colour |" in line for line in lines), "no question of that kind was asked"
    assert {len(line.split("|")) for line in lines} == {6}
    assert by_kind(evaluation([True, True, False])["results"][0]["answers"])["shape, yes or no"] == 0  # type: ignore[index]


def test_curves_are_drawn_from_the_logs_of_runs(tmp_path: Path) -> None:
    for folder, run in (("a", "run-0"), ("a", "run-1"), ("b", "run-shards-0"), ("b", "run-shards-alone-0")):
        (tmp_path / folder / run).mkdir(parents=True)
        row = {field.name: 1 for field in fields(Row)} | {"step": 10, "loss": 0.5}
        text = f"{','.join(row)}\n{','.join(map(str, row.values()))}\n"
        (tmp_path / folder / run / "metrics.csv").write_text(text, encoding="utf-8")
    found = {"one": losses(tmp_path / "a", "run-[0-9]"), "other": losses(tmp_path / "b", "run-shards-[0-9]")}
    assert found == {"one": {"0": [(10, 0.5)], "1": [(10, 0.5)]}, "other": {"0": [(10, 0.5)]}}
    draw(found, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text(encoding="utf-8").count("seed 0") == 2
