from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError
from mimicit.sources.records.choices import chosen, offered, with_choices
from tests.factories.sources import json_values

PETS = ["cat", "dog", "It's a cow, really."]


@pytest.mark.parametrize(
    "value",
    [
        PETS,
        """['cat', 'dog', "It's a cow, really."]""",
        """["cat", "dog", "It's a cow, really."]""",
        """('cat', 'dog', "It's a cow, really.")""",
        ["A. cat", "B. dog", "C. It's a cow, really."],
        ["(A) cat", "(B) dog", "(C) It's a cow, really."],
        "A. cat\nB. dog\nC. It's a cow, really.",
        {"A": "cat", "B": "dog", "C": "It's a cow, really.", "D": None},
        {"text": PETS, "label": ["A", "B", "C"]},
        [*PETS, None, ""],
    ],
)
def test_every_way_to_list_choices(value: object) -> None:
    assert [(choice.letter, choice.text) for choice in offered(value)] == list(zip("ABC", PETS, strict=True))


@pytest.mark.parametrize("value", [None, [], "", "[]", "none of them", 7, {}, "[", "['a', b]", "(" * 200])
def test_what_lists_no_choices(value: object) -> None:
    assert offered(value) == ()


@pytest.mark.parametrize("value", ["['a' 'b']", [["a"], "b"], [*"abcdefghijklmnopqrstuvwxyz", "one more"]])
def test_choices_that_cannot_be_told_apart(value: object) -> None:
    with pytest.raises(RejectedError, match="malformed"):
        offered(value)


@pytest.mark.parametrize(
    ("value", "answer", "letter"),
    [
        (PETS, 1, "B"),
        (PETS, 1.0, "B"),
        (PETS, "1", "B"),
        (PETS, "B", "B"),
        (PETS, " b ", "B"),
        (PETS, "(B)", "B"),
        (PETS, "B.", "B"),
        (PETS, "B. dog", "B"),
        (PETS, "Dog", "B"),
        (PETS, "It's a cow, really", "C"),
        (["1", "2", "3"], 1, "B"),  # a number is a place where the choices are texts
        (["3", "4"], "4", "B"),
        ([3, 4], 4, "B"),
        (["A", "B"], "B", "B"),
        (["a", None, "c"], "C", "C"),
        (["3 apples", "4 apples"], "0", "A"),
    ],
)
def test_every_way_to_say_which(value: list[Any], answer: object, letter: str) -> None:
    assert chosen(offered(value), answer).letter == letter


@pytest.mark.parametrize(
    ("value", "answer", "reason"),
    [
        (PETS, "fish", "malformed"),
        (PETS, "D", "malformed"),
        (PETS, "B. cat", "malformed"),
        (PETS, 3, "malformed"),
        (PETS, -1, "malformed"),
        (PETS, True, "malformed"),
        (PETS, None, "empty_answer"),
        (PETS, float("nan"), "empty_answer"),
        (["B", "A"], "A", "malformed"),  # the text, or the letter?
        (["2", "4", "1"], "1", "malformed"),  # the text, or the place?
        ([2, 4, 1], 1, "malformed"),
    ],
)
def test_an_answer_that_is_no_choice_or_may_be_two(value: list[Any], answer: object, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        chosen(offered(value), answer)


def test_the_instruction_lists_the_choices_once() -> None:
    choices = offered(PETS[:2])
    listed = "Which?\nA. cat\nB. dog"
    assert with_choices("Which?", choices) == listed
    assert with_choices(listed, choices) == listed
    assert with_choices("Which?\n(A) cat (B) dog", choices) == "Which?\n(A) cat (B) dog"
    assert with_choices("", choices) == "A. cat\nB. dog"


words = st.text(st.characters(codec="utf-8", categories=("L", "P", "Zs")), min_size=1, max_size=6).map(str.strip)


@given(st.lists(words, max_size=5), json_values)
def test_a_choice_is_always_one_of_those_offered(value: list[str], answer: object) -> None:
    choices = offered(value)
    assert all(choice.text for choice in choices)
    with contextlib.suppress(RejectedError):
        assert chosen(choices, answer) in choices
