"""A disk that is full costs a checkpoint, and never one that was there before."""

from __future__ import annotations

import io
import logging
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from mimicit.errors import TrainError
from otter_train.checkpoint.files import BackgroundSaver, latest_checkpoint, load_weights
from otter_train.config.run_config import RunOptions, resolve
from otter_train.model import PRESETS
from otter_train.reporting.metrics import Console, Row, Table, read_table
from otter_train.training.loop import Outcome, train
from tests.factories import disks
from tests.factories.runs import row
from tests.factories.train import MINUTE_MODEL, Colours


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 4 MiB: room for a few checkpoints of about 1 MB."""
    with disks.small_disk(tmp_path / "disk", "4m") as disk:
        yield disk


def run(folder: Path, **options: Any) -> Outcome:
    return train(
        resolve("tiny", batch_size=2, epochs=100, max_steps=6, lr=3e-3),
        Colours(),
        folder,
        options=RunOptions(**{"save_every": 1, "log_every": 1, "device": "cpu", **options}),
        console=Console(io.StringIO()),
    )


def test_a_full_disk_is_named_and_the_checkpoints_before_are_whole(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", MINUTE_MODEL)
    with caplog.at_level(logging.WARNING), pytest.raises(TrainError) as stopped:
        run(small_disk / "run", keep=99)
    assert "checkpoint-00000006" in str(stopped.value) and "the same command" in str(stopped.value)
    assert "training goes on" in caplog.text
    last = latest_checkpoint(small_disk / "run")
    assert last is not None and 1 <= last.step < 6
    assert load_weights(last)
    assert not list((small_disk / "run").glob(".checkpoint-*"))
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert run(small_disk / "run", keep=99).finished
    after = latest_checkpoint(small_disk / "run")
    assert after is not None and after.step == 6
    assert [one.step for one in read_table(Row, small_disk / "run" / "metrics.csv")] == [1, 2, 3, 4, 5, 6]


def test_lines_of_a_table_wait_for_room(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = small_disk / "metrics.csv"
    table = Table(Row, path)
    table.append(row(1))
    _fill(small_disk / "filler")
    for step in range(2, 200):
        table.append(row(step))
    assert caplog.text.count("waits for room") == 1
    written = read_table(Row, path)
    assert 0 < len(written) < 199 and written == table.rows[: len(written)]
    (small_disk / "filler").unlink()
    table.append(row(200))
    assert read_table(Row, path) == [row(step) for step in range(1, 201)]


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"0" * 4096)
        except OSError:
            return


def test_training_goes_on_while_a_checkpoint_is_written() -> None:
    begun, may_end, done = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        assert may_end.wait(30)
        done.append("first")

    with BackgroundSaver() as saver:
        saver.start("first", slow)
        assert begun.wait(30) and not done  # we are here, and it is not ready
        may_end.set()
        saver.start("second", lambda: done.append("second"))
        saver.finish()
        assert done == ["first", "second"]


def test_an_error_that_is_no_full_disk_is_not_hidden() -> None:
    def broken() -> None:
        raise ValueError("a bug")

    with BackgroundSaver() as saver:
        saver.start("checkpoint", broken)
        with pytest.raises(ValueError, match="a bug"):
            saver.finish()
