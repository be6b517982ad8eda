"""Joins whose memory or disk runs out end with one line, and the next build finds nothing in its way."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from mimicit.errors import BuildError
from mimicit.pipeline import joins as module
from mimicit.pipeline.joins import joins
from tests.factories.killing import forked

_SORTED = "SELECT max(row) FROM (SELECT i AS row, md5(i::VARCHAR) AS key FROM range({}) AS t(i) ORDER BY key OFFSET 1)"
_ROWS = 600_000  # some 40 MB
_SPILLED = 2 << 20
_WITH_NO_MEMORY = "SELECT list(md5(i::VARCHAR)) FROM range(600000) AS t(i)"  # one value, which cannot be spilled


def test_what_does_not_fit_into_memory_is_spilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEMORY_LIMIT", "24MB")
    with joins(tmp_path) as db:
        assert db.sql(_SORTED.format(_ROWS)).fetchall() == [(_ROWS - 1,)]
    assert not list((tmp_path / "joins").iterdir())


def test_too_little_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEMORY_LIMIT", "8MB")
    with pytest.raises(BuildError, match=r"Out of Memory.*run the same command again") as caught, joins(tmp_path) as db:
        db.sql(_WITH_NO_MEMORY).fetchall()
    assert str(tmp_path) in str(caught.value)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is spilled into cannot grow beyond 2 MiB."""
    monkeypatch.setattr(module, "_MEMORY_LIMIT", "24MB")

    def sort() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (_SPILLED, _SPILLED))
        with pytest.raises(BuildError, match=r"run the same command again") as caught, joins(tmp_path) as db:
            db.sql(_SORTED.format(_ROWS)).fetchall()
        assert str(tmp_path) in str(caught.value)
        return 0

    assert forked(sort) == 0
    with joins(tmp_path) as db:
        assert db.sql(_SORTED.format(_ROWS)).fetchall() == [(_ROWS - 1,)]
