from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.sources.disk_table import DiskTable

texts = st.text(max_size=4)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=8), st.lists(texts, max_size=4))
def test_the_first_value_of_a_key_stays(entries: list[tuple[str, str]], asked: list[str]) -> None:
    expected: dict[str, str] = {}
    with DiskTable() as table:
        for key, value in entries:
            assert table.add(key, value) == (key not in expected)
            expected.setdefault(key, value)
        assert [table.use(key) for key in asked] == [table.get(key) for key in asked]
        assert [table.get(key) for key in (*expected, *asked)] == [expected.get(key) for key in (*expected, *asked)]
        left = {key: value for key, value in expected.items() if key not in asked}
        assert sorted(table.unused()) == sorted(left.items())


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with DiskTable() as table:
        table.add("a", "b")
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
