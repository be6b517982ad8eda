"""Joins spill what does not fit, and end with one line when memory or disk run out; the next build finds nothing in
its way."""

from __future__ import annotations

import ast
import re
import resource
from pathlib import Path

import pyarrow as pa
import pytest

import mimicit
from mimicit import BuildConfig
from mimicit.errors import BuildError
from mimicit.pipeline import joins as module
from mimicit.pipeline.joins import joins, with_lists
from mimicit.shards.manifest import read_manifest
from tests.factories.engines import InProcess
from tests.factories.killing import forked
from tools.bench_records import write_mimicit

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


def test_lists_are_put_together_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_ROWS", 3)  # lists, and runs of rows without any, go across batches
    schema = pa.schema([("name", pa.string()), ("values", pa.list_(pa.int64()))])
    lists = {number: list(range(number % 5)) for number in range(0, 90, 3)}
    with joins(tmp_path) as db:
        db.execute("CREATE TABLE rows AS SELECT i AS n, 'row ' || i AS name FROM range(90) AS t(i) WHERE i % 2 = 0")
        db.execute("CREATE TABLE said AS SELECT i * 3 AS n, unnest(range((i * 3) % 5)) AS value FROM range(30) AS t(i)")
        queries = ("SELECT n, name FROM rows ORDER BY n", "SELECT n, value FROM said ORDER BY n, value")
        (rows, values) = queries
        found = [row for batch in with_lists(db, rows, schema, values=values) for row in batch.to_pylist()]
        assert found == [{"name": f"row {n}", "values": lists.get(n, [])} for n in range(0, 90, 2)]
        assert list(with_lists(db, f"SELECT * FROM ({rows}) WHERE n < 0", schema, values=values)) == []


def test_no_query_aggregates_texts_or_lists() -> None:
    """DuckDB cannot spill them: 200,000 records of MIMIC-IT have run out of memory."""
    held = re.compile(r"\b(list|(array|string)_agg|any_value|arg_m(in|ax)|m(in|ax)_by|first|last)\(", re.IGNORECASE)
    asked, wrong = set(), []
    for path in (Path(mimicit.__file__).parent / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "SELECT" in node.value:
                asked.add(path.name)
                wrong += [f"{path.name}:{node.lineno}"] if held.search(node.value) else []
    assert asked >= {"resolve.py", "links.py", "filtering.py", "plan.py"}
    assert wrong == []


@pytest.mark.slow  # a minute of CPU time
def test_many_records_need_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the memory that there is suffices for 200,000 records that name their pictures and related ones."""
    monkeypatch.setattr(module, "_MEMORY_LIMIT", "64MB")
    write_mimicit(tmp_path / "raw", 200_000)
    mimicit.build_shards(tmp_path / "raw", tmp_path / "out", BuildConfig(), engine=InProcess())
    assert read_manifest(tmp_path / "out")["totals"]["samples"] == 200_000
