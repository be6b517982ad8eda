"""Memory does not grow with the data: a picture file of 1 GB builds in less than half of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mimicit.shards.manifest import read_manifest
from tools.bench_memory import write_mimicit_json
from tools.measured import run_measured

GIGABYTE = 10**9


@pytest.mark.slow
def test_a_picture_file_of_1_gb_is_streamed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    count = write_mimicit_json(raw, GIGABYTE)
    command = [sys.executable, "-m", "mimicit", "build", "--src", str(raw), "--out", str(tmp_path / "out")]
    measured = run_measured([*command, "--workers", "2"])
    assert measured.returncode == 0, measured.stderr
    print(  # noqa: T201 - the figure this test is about
        f"1 GB of pictures, {count} triplets: {measured.seconds:.0f} s, {GIGABYTE / measured.seconds / 1e6:.0f} MB/s,"
        f" largest process {measured.peak_rss / 1e6:.0f} MB"
    )
    assert read_manifest(tmp_path / "out")["totals"]["samples"] == count
    assert measured.peak_rss < 512 * 1024**2
