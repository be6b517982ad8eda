"""The proof on captions: which pictures are held out, and what its table says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from PIL import Image

from tools.proof.captions import VARIATIONS, comparison, lay_out, table, with_category


def test_every_sixth_caption_is_held_out_and_pictures_become_squares(tmp_path: Path) -> None:
    stamps = tmp_path / "stamps"
    stamps.mkdir()
    for number in range(14):
        Image.new("RGBA", (40, 20), (number, 0, 0, 255)).save(stamps / f"{number:02d}.png")
        (stamps / f"{number:02d}.txt").write_text(f"Thing {number}.\nde.utf8=Ding {number}.\n", encoding="utf-8")
    (stamps / "99.txt").write_text("Without a picture.\n", encoding="utf-8")
    lay_out(stamps, tmp_path)
    found = {}
    for part in ("raw", "held-out-raw"):
        rows = [json.loads(line) for line in (tmp_path / part / "manifest.jsonl").read_text().splitlines()]
        found[part] = [row["answer"] for row in rows]
        for row in rows:
            with Image.open(tmp_path / part / row["media"]) as picture:
                assert picture.size == (224, 224)
    assert found["held-out-raw"] == ["Thing 0.", "Thing 6.", "Thing 12."]
    assert len(found["raw"]) == 11 and not set(found["raw"]) & set(found["held-out-raw"])


def test_related_are_the_others_of_the_folder() -> None:
    ids = ["a/1.png", "a/2.png", "b/3.png", "a/4.png", "a/b/5.png"]
    found = {row["id"]: row["related"] for row in with_category([{"id": id} for id in ids])}
    assert {id: sorted(related) for id, related in found.items()} == {
        "a/1.png": ["a/2.png", "a/4.png"],
        "a/2.png": ["a/1.png", "a/4.png"],
        "a/4.png": ["a/1.png", "a/2.png"],
        "b/3.png": [],
        "a/b/5.png": [],
    }


def evaluation(more: float) -> dict[str, object]:
    loss = {"value": 4.5, "low": 4.0, "high": 5.0}
    gained = {"value": more, "low": more - 0.1, "high": more + 0.1}
    return {"results": [{"all": {"queries": 7, "loss": loss}, "gained_by_looking": gained}]}


def test_the_table_has_a_line_per_seed_and_their_mean() -> None:
    lines = list(table({1: evaluation(0.6), 0: evaluation(0.8)}))
    assert lines[2] == "| 0 | 7 | 4.500 [4.000, 5.000] | 0.800 [0.700, 0.900] |"
    assert lines[-1].startswith("| mean") and "0.700 ±" in lines[-1]
    assert len(list(table({0: evaluation(0.8)}))) == 3, "one seed has no mean"


def test_variations_are_compared_over_their_seeds() -> None:
    assert len({variation.name for variation in VARIATIONS}) == len(VARIATIONS)
    assert next(variation.name for variation in VARIATIONS if variation.recipe) == "random-label-mode-paper"
    with_context = {"results": [*evaluation(0.4)["results"], *evaluation(0.0)["results"]]}  # type: ignore[misc]
    found = {
        variation.name: {seed: with_context if variation.context else evaluation(0.6) for seed in range(3)}
        for variation in VARIATIONS
    }
    lines = list(comparison(found))
    assert lines[2] == "| no context | 4.50 ± 0.00 |  | 0.60 ± 0.00 |"
    assert lines[3] == "| random context | 4.50 ± 0.00 | 4.50 ± 0.00 | 0.40 ± 0.00 |"
    assert len(lines) == 2 + len(VARIATIONS) + 1 and lines[-1].endswith("3 seeds.")
