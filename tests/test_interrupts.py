"""Ctrl-C is Ctrl-C, whatever a library makes of the exception, and a build that goes on stays one that can."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from mimicit.errors import BuildError
from mimicit.interrupts import ending_at_the_second, interruptible
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.progress import Silent
from tests.factories import raw as make
from tests.factories.engines import InProcess


def interrupted_within_a_library(*_: Any) -> None:
    """What DuckDB says where Ctrl-C comes while it reads something of Python's."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        raise duckdb.InvalidInputException("reading the schema of the object") from error


@pytest.fixture(autouse=True)
def python_handles_it() -> Iterator[None]:
    """As in a terminal; what a shell starts in the background begins with Ctrl-C ignored."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


def test_what_a_library_makes_of_it_is_undone() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible(), interruptible():
        interrupted_within_a_library()
    with pytest.raises(duckdb.Error), interruptible():
        raise duckdb.InvalidInputException("something else")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_duckdb_reading_rows_of_ours() -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        signal.raise_signal(signal.SIGINT)
        yield pa.record_batch({"a": [1]})

    rows = pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), batches())
    with pytest.raises(KeyboardInterrupt), interruptible():
        duckdb.connect().register("rows", rows).execute("SELECT sum(a) FROM rows").fetchall()


def test_the_second_one_is_the_system_s() -> None:
    handlers: list[object] = []

    def cleaning_up() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            handlers.append(signal.getsignal(signal.SIGINT))

    with pytest.raises(KeyboardInterrupt), ending_at_the_second(), interruptible():
        cleaning_up()
    assert handlers == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_build_that_goes_on_and_is_interrupted_again_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw, pictures=3, questions=1)

    class Stop(Silent):
        def update(self, stage: str, done: int, total: int | None) -> None:
            if stage == "pack":
                raise KeyboardInterrupt

    def build() -> None:
        build_shards(raw, out, BuildConfig(), engine=InProcess(), progress=Stop())

    with pytest.raises(KeyboardInterrupt):
        build()
    before = sorted((out / ".mimicit-work" / "media").iterdir())
    with monkeypatch.context() as patched:
        patched.setattr("mimicit.pipeline.run.make_plan", interrupted_within_a_library)
        with pytest.raises(KeyboardInterrupt):
            build()
    assert (out / ".mimicit-work" / "build.json").exists()
    assert sorted((out / ".mimicit-work" / "media").iterdir()) == before
    with monkeypatch.context() as patched:
        patched.setattr("mimicit.pipeline.run.make_plan", lambda *_: duckdb.sql("SELECT nothing"))
        with pytest.raises(BuildError, match="damaged"):
            build()
