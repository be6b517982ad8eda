"""The real run of ``mimicit annotate``: which captions it takes, its recipe, and the words for its figures."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from PIL import Image

from mimicit.annotating.gates import fault_of_pair
from mimicit.annotating.recipe import read_recipe
from mimicit.annotating.records import Record
from mimicit.annotating.wording import Pair, pairs_of, written_out
from tools.annotate_captions import RECIPE, captioned, in_words


def test_captions_of_three_words_with_a_picture_are_taken_in_a_fixed_order(tmp_path: Path) -> None:
    said = {"a": "A red bus.\nfr.utf8=Un bus.\n", "b": "Bus.\n", "c": "A blue bus.\n", "d": "A drawn bus.\n"}
    for name, text in said.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        if name != "d":
            Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    order = sorted(said)
    random.Random(0).shuffle(order)
    wanted = {"a": "A red bus.", "c": "A blue bus."}
    assert [(path.stem, text) for path, text in captioned(tmp_path)] == [
        (name, wanted[name]) for name in order if name in wanted
    ]


def test_the_examples_of_its_recipe_pass_its_gates() -> None:
    recipe = read_recipe(str(RECIPE))
    about = Record(id="a", source="a", place="a", media=(), captions=("A cat.",))
    for example in recipe.example:
        (pair,) = pairs_of(written_out(example.pairs, recipe), recipe)
        assert pair == Pair(example.pairs[0]["instruction"], example.pairs[0]["answer"])
        assert fault_of_pair(pair, about, recipe, "English") is None


def test_its_figures_name_every_gate() -> None:
    summary = {
        "records": 5,
        "written": 3,
        "rejected": 2,
        "reasons": {"no_pair_left": 1, "unreadable": 1},
        "pairs": 4,
        "kept": 3,
        "dropped": 1,
        "pair_reasons": {"empty": 1},
        "requests": 6,
        "tokens": {"input": 1200, "output": 90},
        "stopped": "",
    }
    assert in_words(summary, 61.6, 40.2).splitlines() == [
        "5 records: 3 with a pair, 2 without",
        "  no_pair_left: 1",
        "  unreadable: 1",
        "4 pairs: 3 kept (75%), 1 dropped",
        "  empty: 1",
        "6 requests, 1,200 tokens in and 90 out, 62 s, 40 s of CPU",
    ]
