"""Memory does not grow with the data: 1 GB builds in less than half of it, and no task leaves tables mapped."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mimicit
from mimicit.shards.manifest import read_manifest
from tests.factories.engines import InProcess
from tests.factories.sources import jpeg, put
from tools.bench_memory import write_llava, write_mimicit_json
from tools.measured import run_measured

GIGABYTE = 10**9
MAPS = Path("/proc/self/maps")


@pytest.mark.skipif(not MAPS.exists(), reason="this system does not list what a process maps")
def test_no_task_leaves_tables_mapped(tmp_path: Path) -> None:
    rows = "".join(f'{{"media": "a.jpg", "instruction": "Q{number}", "answer": "A"}}\n' for number in range(8))
    put(tmp_path / "raw", "a.jpg", jpeg())
    put(tmp_path / "raw", "manifest.jsonl", rows.encode())
    engine = _Watching()
    gc.collect()
    gc.disable()  # a table that only a collection of garbage would close stays mapped for many tasks
    try:
        mimicit.build_shards(tmp_path / "raw", tmp_path / "out", mimicit.BuildConfig(shard_samples=2), engine=engine)
    finally:
        gc.enable()
    assert engine.labels >= {"import", "encode", "choose", "pack"}
    assert engine.left == []


class _Watching(InProcess):
    """Notes the tables below ``samples/`` and those of triplets that are mapped after each task."""

    def __init__(self) -> None:
        self.labels: set[str] = set()
        self.left: list[str] = []

    def run(self, function: Callable[[Any], Any], tasks: Any, *, label: str = "", **options: Any) -> Any:
        self.labels.add(label)
        for pair in super().run(function, tasks, label=label, **options):
            mapped = [line for line in MAPS.read_text().splitlines() if line.endswith(".arrow")]
            self.left += [f"{label}: {line}" for line in mapped if "/samples/" in line or "triplets" in line]
            yield pair


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_mimicit_json, write_llava])
def test_a_file_of_1_gb_is_streamed(tmp_path: Path, write: Callable[[Path, int], int]) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    count = write(raw, GIGABYTE)
    command = [sys.executable, "-m", "mimicit", "build", "--src", str(raw), "--out", str(tmp_path / "out")]
    measured = run_measured([*command, "--workers", "2"])
    assert measured.returncode == 0, measured.stderr
    print(  # noqa: T201 - the figure this test is about
        f"1 GB by {write.__name__}, {count} triplets: {measured.seconds:.0f} s,"
        f" {GIGABYTE / measured.seconds / 1e6:.0f} MB/s, largest process {measured.peak_rss / 1e6:.0f} MB"
    )
    assert read_manifest(tmp_path / "out")["totals"]["samples"] == count
    assert measured.peak_rss < 512 * 1024**2
