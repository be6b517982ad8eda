"""Memory does not grow with the data: a picture file of 1 GB builds in less than half of it."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mimicit.shards.manifest import read_manifest
from tools.measured import run_measured
from tests.factories.raw import picture

GIGABYTE = 10**9


def write_big_mimicit(folder: Path, size: int) -> int:
    """A MIMIC-IT set whose picture file has at least ``size`` bytes; returns the number of its triplets."""
    folder.mkdir(parents=True)
    body = picture(0, 320, 240)
    noise = np.random.default_rng(0)
    count = 0
    with open(folder / "LA.json", "w") as pictures, open(folder / "LA_instructions.json", "w") as instructions:
        pictures.write("{")
        instructions.write('{"meta": {"version": "0.0.1"}, "data": {')
        while pictures.tell() < size:
            comma = "," if count else ""
            # A comment segment of noise makes each file distinct and as large as a photo.
            comment = noise.bytes(60_000)
            data = body[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + body[2:]
            pictures.write(f'{comma}"LA_IMG_{count:012d}": "{base64.b64encode(data).decode()}"')
            triplet = {"instruction": "What?", "answer": f"{count}.", "image_ids": [f"LA_IMG_{count:012d}"]}
            instructions.write(f'{comma}"LA_INS_{count:012d}": {json.dumps(triplet)}')
            count += 1
        pictures.write("}")
        instructions.write("}}")
    return count


@pytest.mark.slow
def test_a_picture_file_of_1_gb_is_streamed(tmp_path: Path) -> None:
    count = write_big_mimicit(tmp_path / "raw", GIGABYTE)
    command = [sys.executable, "-m", "mimicit", "build", "--src", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    measured = run_measured([*command, "--workers", "2"])
    assert measured.returncode == 0, measured.stderr
    print(  # noqa: T201 - the figure this test is about
        f"1 GB of pictures, {count} triplets: {measured.seconds:.0f} s, {GIGABYTE / measured.seconds / 1e6:.0f} MB/s,"
        f" largest process {measured.peak_rss / 1e6:.0f} MB"
    )
    assert read_manifest(tmp_path / "out")["totals"]["samples"] == count
    assert measured.peak_rss < 512 * 1024**2
