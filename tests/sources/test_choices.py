from __future__ import annotations

import contextlib

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
        (["cat", "2", "3"], 0, "A"),
        (["10", "20", "30"], 1, "B"),
        (["10", "20", "30"], "B", "B"),
        (["3", "4"], "4", "B"),
        ([3, 4], 4, "B"),
        (["3", "1", "5", "2"], "1", "B"),
        (["4", "8", "1", "2"], "8", "B"),
        (["1.5", "1"], "1", "B"),
        ({"text": PETS, "label": ["1", "2", "3"]}, "1", "A"),
        ({"text": PETS, "label": [1, 2, 3]}, 3, "C"),
        ({"text": PETS, "label": ["1", "2", "3"]}, "dog", "B"),
        ({"1": "cat", "2": "dog", "3": "cow"}, "1", "A"),
        ({"1": "cat", "2": "dog", "3": "cow"}, 1, "A"),
        ({"2": "cat", "1": "dog", "0": "cow"}, 1, "B"),
        ({"1": "2", "2": "3", "3": "1"}, "1", "A"),
        (["A", "B"], "B", "B"),
        (["a", None, "c"], "C", "C"),
        (["3 apples", "4 apples"], "0", "A"),
    ],
)
def test_every_way_to_say_which(value: object, answer: object, letter: str) -> None:
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
        ([2, 4, 1], 1, "malformed"),  # the text, or the place?
        ([2, 4, 1], "1", "malformed"),
        (["1", "2", "3", "4"], 2, "malformed"),
        (["1", "2", "3", "4"], "2", "malformed"),
        (["3", "2", "5", "4"], "2", "malformed"),  # as in AI2D, where it is 5
        (["1", "none", "3"], "1", "malformed"),
        (["10", "20", "30"], "2", "malformed"),  # no place where all choices are other numbers
        ({"1": "cat", "2": "dog"}, "0", "malformed"),
        ({"1": "cat", "2": "dog"}, 3, "malformed"),
    ],
)
def test_an_answer_that_is_no_choice_or_may_be_two(value: object, answer: object, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        chosen(offered(value), answer)


def test_a_place_is_no_text_and_no_number_of_a_column() -> None:
    assert chosen(offered(["1", "2", "3"]), 1, is_place=True).text == "2"
    assert chosen(offered(["1", "2", "3"]), "1", is_place=True).text == "2"
    assert chosen(offered(PETS), "0", first_number=1, is_place=True).text == "cat"
    with pytest.raises(RejectedError, match="may be"):  # from 0, or the label?
        chosen(offered({"1": "cat", "2": "dog"}), 1, is_place=True)


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
