from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.json_members import first_of_members, member_rows
from mimicit.sources.files.root import Root
from tests.factories.sources import json_values, put


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("members")


def rows(folder: Path, value: Any, name: str = "rows") -> list[tuple[str, Any]]:
    put(folder, "f.json", value)
    found = member_rows(Root(folder), "f.json", name)
    return [(place, row.reason if isinstance(row, RejectedError) else row) for place, row, *_ in found]


@settings(deadline=None)
@given(st.lists(json_values, max_size=5), st.dictionaries(st.text("abc", max_size=2), json_values, max_size=3))
def test_every_element_is_a_record_or_says_why_not(folder: Path, values: list[Any], others: dict[str, Any]) -> None:
    assert rows(folder, {**others, "rows": values, "last": others}) == [
        (f"f.json#rows[{index}]", value if isinstance(value, dict) else "malformed")
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize("content", ["{}", '{"rows": {}}', "[]", "", '{"rows": [{}', '{"rows": []} x'])
def test_a_file_without_the_list_or_with_damage_is_a_source_error(folder: Path, content: str) -> None:
    with pytest.raises(SourceError, match=r"f\.json"):
        rows(folder, content)


def test_a_glance_shows_texts_and_first_records(folder: Path) -> None:
    value = {
        "subtype": "tr\u00e4in",
        "rows": [{"a": 1}, {"b": 2}],
        "empty": [],
        "odd": [7, {}],
        "number": 7,
        "x": {"y": 1},
    }
    expected = {"subtype": "tr\u00e4in", "rows": {"a": 1}, "empty": None, "odd": None, "number": None, "x": None}
    text = json.dumps(value)
    put(folder, "f.json", text)
    assert first_of_members(Root(folder), "f.json") == expected
    for end in range(len(text)):  # what comes before the damage is known all the same
        put(folder, "f.json", text[:end])
        seen = first_of_members(Root(folder), "f.json")
        assert list(seen) == list(expected)[: len(seen)]
        assert all(seen[name] in (expected[name], None) for name in seen)
