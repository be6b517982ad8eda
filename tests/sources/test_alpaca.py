"""Alpaca; text that is published as ShareGPT is read as LLaVA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.sources import SOURCES
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Item
from tests.factories.sources import (
    check_items,
    items_of,
    json_values,
    one_source,
    put,
    put_lines,
    reasons_of,
    triplets_of,
)

RECORD = {"instruction": "Add the numbers.", "input": "1 and 2", "output": "3"}


def read(root: Path, *records: Any) -> list[Item]:
    put(root, "alpaca.json", list(records))
    spec = SourceSpec(name="alpaca", format="alpaca", files=("alpaca.json",), why="")
    items = list(SOURCES["alpaca"].read(spec, Root(root)))
    check_items(items, spec)
    return items


@pytest.mark.parametrize("as_lines", [False, True])
def test_the_published_record(tmp_path: Path, as_lines: bool) -> None:
    (put_lines if as_lines else put)(tmp_path, "alpaca_data.json", [RECORD, RECORD | {"input": "", "text": "Below is"}])
    assert one_source(tmp_path).format == "alpaca"
    first, second = triplets_of(items_of(tmp_path))
    assert [(t.instruction, t.answer, t.media, t.meta) for t in (first, second)] == [
        ("Add the numbers.\n1 and 2", "3", (), {}),
        ("Add the numbers.", "3", (), {"text": "Below is"}),
    ]


def test_the_history_is_the_same_conversation(tmp_path: Path) -> None:
    found = triplets_of(read(tmp_path, RECORD | {"id": 7, "history": [["Hi.", "Hello."], ["Well?", "Yes."]]}))
    assert [(t.id, t.instruction, t.conversation == t.place, t.turn) for t in found] == [
        ("7_0", "Hi.", True, 0),
        ("7_1", "Well?", True, 1),
        ("7_2", "Add the numbers.\n1 and 2", True, 2),
    ]


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"output": ""}, ["empty_answer"]),
        ({"output": None}, ["empty_answer"]),
        ({"output": ["3"]}, ["malformed"]),
        ({"instruction": "", "input": ""}, ["malformed"]),
        ({"instruction": 7}, ["malformed"]),
        ({"instruction": "<image>What?"}, ["placeholder_mismatch"]),
        ({"images": ["a.jpg"]}, ["unsupported_media"]),
        ({"history": "Hi."}, ["malformed"]),
        ({"history": [["Hi."]]}, ["malformed"]),
        ({"history": [["Hi.", ""]], "images": ["a.jpg"]}, ["unsupported_media"] * 2),
        ({"note": "x" * 1_000_001}, ["too_long"]),
    ],
)
def test_a_bad_record_is_one_reject_for_each_round(tmp_path: Path, fields: dict[str, Any], reasons: list[str]) -> None:
    items = read(tmp_path, RECORD | fields, RECORD, 7)
    assert reasons_of(items) == [*reasons, "malformed"]
    assert len(triplets_of(items)) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alpaca")


values = st.sampled_from(["", "a", "<image>"]) | json_values
pairs = st.lists(st.lists(values, min_size=2, max_size=2), max_size=3)
records = st.fixed_dictionaries(
    {"instruction": values, "output": values}, optional={"input": values, "history": pairs, "id": values}
)


@settings(deadline=None)
@given(records)
def test_every_round_is_a_triplet_or_a_reject(folder: Path, record: dict[str, Any]) -> None:
    items = read(folder, record)
    if len(items) != 1:
        assert len(items) == len(record["history"]) + 1


def test_sharegpt_text_is_llava(tmp_path: Path) -> None:
    talk = [("system", "Be kind."), ("human", "Hi."), ("gpt", "Hello."), ("human", "Bye."), ("gpt", "Goodbye.")]
    record = {"id": "QWJhYvA_0", "conversations": [{"from": name, "value": text} for name, text in talk]}
    put(tmp_path, "ShareGPT_V3_unfiltered_cleaned_split.json", [record])
    assert one_source(tmp_path).format == "llava"
    found = triplets_of(items_of(tmp_path))
    assert [(t.id, t.instruction, t.answer, t.media) for t in found] == [
        ("QWJhYvA_0_0", "Hi.", "Hello.", ()),
        ("QWJhYvA_0_1", "Bye.", "Goodbye.", ()),
    ]
