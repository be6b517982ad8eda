from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.sources.containers.disk_table import DiskTable

texts = st.text(max_size=4)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=8), st.lists(texts, max_size=4), st.integers(0, 8))
def test_the_first_value_of_a_key_stays(entries: list[tuple[str, str]], asked: list[str], single: int) -> None:
    expected: dict[str, str] = {}
    with DiskTable() as table:
        added = [table.add(*entry) for entry in entries[:single]] + table.add_all(entries[single:])
        for (key, value), is_new in zip(entries, added, strict=True):
            assert is_new == (key not in expected)
            expected.setdefault(key, value)
        assert table.use_all(asked) == {key: expected[key] for key in asked if key in expected}
        assert [table.get(key) for key in (*expected, *asked)] == [expected.get(key) for key in (*expected, *asked)]
        left = {key: value for key, value in expected.items() if key not in asked}
        assert sorted(table.unused()) == sorted(left.items())


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with DiskTable() as table:
        table.add("a", "b")
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
