from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.sources.records.column_names import MEDIA_FIELDS, columns_of, field_names

FIELDS = ("id", "instruction", "answer", "related", "query", "meta", "document", *MEDIA_FIELDS)
NAMES = (*FIELDS, "Question", "prompt", "TEXT", "caption", "File Name", "file_name", "path", "Image", "split", "x")


@given(st.lists(st.sampled_from(NAMES), unique=True))
def test_no_field_is_named_twice_and_its_own_name_wins(columns: list[str]) -> None:
    fields = field_names(columns)
    assert list(fields) == columns
    assert len(set(fields.values())) == len(columns)
    assert all(fields[column] == column for column in columns if column in FIELDS)


@pytest.mark.parametrize(
    ("columns", "fields"),
    [
        (["Image", "Question", "Answer"], ["image", "instruction", "answer"]),
        (["file-name", "Caption"], ["media", "answer"]),
        (["question", "instruction", "answer"], ["question", "instruction", "answer"]),
        (["image", "path", "text"], ["image", "path", "answer"]),
        (["caption", "response", "path"], ["caption", "answer", "media"]),
        (["question_id", "image", "text", "label"], ["question_id", "image", "instruction", "answer"]),
        (["question_id", "query", "text"], ["question_id", "query", "answer"]),
        (["question_id", "question", "text"], ["question_id", "instruction", "answer"]),
        (["Bild", "Frage", "Antwort"], ["Bild", "Frage", "Antwort"]),
    ],
)
def test_the_usual_names(columns: list[str], fields: list[str]) -> None:
    assert list(field_names(columns).values()) == fields


@pytest.mark.parametrize(
    ("columns", "letters", "doubtful"),
    [
        ("A B C D E X", "ABCDE", False),
        ("A B", "AB", True),
        ("A B D", "AB", True),
        ("X Y", "", False),
        ("B C D", "", False),
        ("a b c d", "ABCD", False),
        ("choice_a choice_b", "AB", False),
        ("option1 option2", "AB", False),
        ("a1 a2", "AB", True),
        ("a0 a1 a2", "ABC", False),
        ("a1 a3", "", False),
    ],
)
def test_which_columns_hold_choices(columns: str, letters: str, doubtful: bool) -> None:
    found = columns_of(["question", "answer", *columns.split()])
    assert "".join(letter for letter, _ in found.lettered) == letters
    assert found.doubtful == doubtful
