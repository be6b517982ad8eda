from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError
from mimicit.prompt import IMAGE, SPECIAL_TOKENS
from mimicit.schema import canonical_json
from mimicit.sources.records.text import (
    MAX_TEXT_CHARACTERS,
    checked_answer,
    checked_id,
    checked_ids,
    checked_instruction,
    checked_meta,
    checked_text,
    derived_id,
)
from tests.factories.sources import json_values

pieces = st.sampled_from([*SPECIAL_TOKENS, "<", "image>", "<answer", ">", " ", "\n", "\0", "\ud800", "é", "🦦"])
odd_text = st.lists(pieces | st.text(max_size=5), max_size=8).map("".join)


def reason(check: Any, *arguments: Any) -> str:
    with pytest.raises(RejectedError) as caught:
        check(*arguments)
    return caught.value.reason


@given(odd_text)
def test_a_checked_text_is_clean_and_else_unchanged(text: str) -> None:
    if any(character in text for character in ("\0", "\ud800")):
        assert reason(checked_text, text, "answer") == "malformed"
    else:
        assert checked_text(text, "answer") == text.strip()
        if IMAGE in text:
            assert reason(checked_instruction, text) == "placeholder_mismatch"
        else:
            assert checked_instruction(text) == text.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nul\0", "malformed"),
        ("\udc80", "malformed"),
        (None, "malformed"),
        (["text"], "malformed"),
        ("a" * (MAX_TEXT_CHARACTERS + 1), "too_long"),
    ],
)
def test_a_bad_text_has_its_reason(text: object, expected: str) -> None:
    assert reason(checked_text, text, "instruction") == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a\n", "a"),
        (3, "3"),
        (-7, "-7"),
        (2.0, "2"),
        (2.5, "2.5"),
        (1e300, "1e+300"),
        (True, "true"),
        (False, "false"),
        ("0", "0"),
    ],
)
def test_answers_that_are_no_text_become_it(value: object, text: str) -> None:
    assert checked_answer(value) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "empty_answer"),
        ("", "empty_answer"),
        (" \u00a0\n", "empty_answer"),
        (float("nan"), "empty_answer"),
        (float("inf"), "malformed"),
        ({}, "malformed"),
        ([1], "malformed"),
    ],
)
def test_answers_that_are_none(value: object, expected: str) -> None:
    assert reason(checked_answer, value) == expected


@pytest.mark.parametrize(("value", "id"), [("a", "a"), (7, "7"), (7.0, "7"), ("0007", "0007")])
def test_ids(value: object, id: str) -> None:
    assert checked_id(value) == id


@pytest.mark.parametrize(
    "value", ["", None, True, 1.5, float("nan"), float("inf"), [], {}, "x" * 4097, "a\0", "\ud800"]
)
def test_what_is_no_id(value: object) -> None:
    assert reason(checked_id, value) == "malformed"


def test_several_ids_may_be_absent_or_bare() -> None:
    assert [checked_ids(value, "related") for value in (None, "", [], "a", ["a", 1])] == [
        (),
        (),
        (),
        ("a",),
        ("a", "1"),
    ]
    assert reason(checked_ids, ["a", None], "related") == "malformed"
    assert reason(checked_ids, {"a": 1}, "related") == "malformed"


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=5))
def test_checked_meta_can_be_written(value: dict[str, Any]) -> None:
    assert checked_meta(value) == value
    canonical_json(checked_meta(value))


def test_meta_that_json_cannot_hold_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"a": deep}
    for value in ({"a": "\ud800"}, {"a": b"bytes"}, deep):
        assert reason(checked_meta, value) == "malformed"


def test_a_huge_meta_is_too_long() -> None:
    assert reason(checked_meta, {"a": "x" * 1_000_001}) == "too_long"


def test_a_derived_id_depends_on_the_content_alone() -> None:
    first = derived_id({"instruction": "What?", "answer": "This."})
    assert first == derived_id({"answer": "This.", "instruction": "What?"}) == "70347b831f238daaed550ad7"
    assert first != derived_id({"instruction": "What?", "answer": "That."})
