from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.sources.records.column_names import MEDIA_FIELDS, field_names

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
        (["Bild", "Frage", "Antwort"], ["Bild", "Frage", "Antwort"]),
    ],
)
def test_the_usual_names(columns: list[str], fields: list[str]) -> None:
    assert list(field_names(columns).values()) == fields
