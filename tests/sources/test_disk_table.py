from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.sources.containers.disk_table import DiskTable
from mimicit.sources.items import Entry

texts = st.text(max_size=4)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=8), st.lists(texts, max_size=4), st.integers(0, 8))
def test_the_first_value_of_a_key_stays(entries: list[tuple[str, str]], asked: list[str], single: int) -> None:
    expected: dict[str, str] = {}
    rows = [Entry(key, value, f"{key}:{value}") for key, value in entries]
    with DiskTable() as table:
        added = [new for row in rows[:single] for new in table.add_all([row])] + table.add_all(rows[single:])
        for (key, value), is_new in zip(entries, added, strict=True):
            assert is_new == (key not in expected)
            expected.setdefault(key, value)
        assert table.use_all(asked) == {key: expected[key] for key in asked if key in expected}
        assert [table.get(key) for key in (*expected, *asked)] == [expected.get(key) for key in (*expected, *asked)]
        left = [Entry(key, value, f"{key}:{value}") for key, value in expected.items() if key not in asked]
        assert list(table.unused()) == sorted(left, key=lambda entry: entry.key.encode())


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with DiskTable() as table:
        table.add_all([Entry("a", "b", "")])
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
