"""How a build grows: time and memory for 10^4, 10^5, ... triplets over a fifth as many pictures, four shots each.

    python -m tools.bench_scale --folder /tmp/scale --triplets 10000 100000 1000000

Prints, for each size, wall and CPU seconds, triplets per second, the largest resident memory of any process, the bytes
of the shards, and the time in relation to n log n of the smallest size (1.0: as n log n grows).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mimicit.shards.manifest import read_manifest
from tools.measured import run_measured

_SIDE = 32  # pixels
_PER_PICTURE = 5
_PER_FOLDER = 1000


def main() -> None:
    """Make the input, build it, print a line; the input of a size is made once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="for input and shards; some GB")
    parser.add_argument("--triplets", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--context", default="auto", help="as of mimicit build")
    options = parser.parse_args()
    print("triplets  pictures  wall s  CPU s  triplets/s  largest process MB  shards MB  time / (n log n)")
    first: float | None = None
    for triplets in options.triplets:
        raw, out = options.folder / f"raw-{triplets}", options.folder / f"shards-{triplets}"
        if not (raw / "manifest.jsonl").exists():
            write_input(raw, triplets)
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "mimicit", "build", "--src", str(raw), "--out", str(out)]
        command += ["--shots", str(options.shots), "--workers", str(options.workers), "--context", options.context]
        measured = run_measured(command)
        if measured.returncode:
            sys.exit(measured.stderr)
        totals = read_manifest(out)["totals"]
        assert totals["samples"] == triplets, totals
        growth = measured.seconds / (triplets * math.log(triplets))
        first = first or growth
        print(
            f"{triplets:8d}  {triplets // _PER_PICTURE:8d}  {measured.seconds:6.0f}  {measured.cpu_seconds:5.0f}"
            f"  {triplets / measured.seconds:10.0f}  {measured.peak_rss / 1e6:18.0f}  {totals['bytes'] / 1e6:9.0f}"
            f"  {growth / first:16.2f}",
            flush=True,
        )
        shutil.rmtree(out)


def write_input(raw: Path, triplets: int) -> None:
    """Distinct small pictures, five questions about each."""
    rng = np.random.default_rng(0)
    for number in range(triplets // _PER_PICTURE):
        path = _picture(raw, number)
        if number % _PER_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small, "RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).save(path, quality=80)
    with open(raw / "manifest.jsonl", "w") as manifest:
        for number in range(triplets):
            row = {
                "id": f"{number:09d}",
                "media": str(_picture(raw, number // _PER_PICTURE).relative_to(raw)),
                "instruction": f"What is shown at place {number % _PER_PICTURE} of the picture?",
                "answer": f"Thing number {number}.",
            }
            manifest.write(json.dumps(row) + "\n")


def _picture(raw: Path, number: int) -> Path:
    return raw / f"{number // _PER_FOLDER:05d}" / f"{number:09d}.jpg"


if __name__ == "__main__":
    main()
