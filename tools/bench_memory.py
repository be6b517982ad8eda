"""Peak memory and speed of a build from one large published file.

    python -m tools.bench_memory --folder /tmp/big --set mimicit-json --gigabytes 5

Makes the input once (MIMIC-IT with pictures in JSON or in parquet, or a LLaVA array), builds it, and prints MB/s and
the largest resident memory of any process.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mimicit.shards.manifest import read_manifest
from tools.measured import run_measured

_COMMENT_BYTES = 60_000
_ROWS_PER_GROUP = 1000
_WORDS = [
    "picture",
    "shows",
    "red",
    "large",
    "small",
    "near",
    "dog",
    "cat",
    "street",
    "sky",
    "tree",
    "house",
    "blue",
    "and",
]


def main() -> None:
    """Write, build, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="for input and shards; some GB")
    parser.add_argument("--set", choices=sorted(_WRITERS), required=True)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    raw, out = options.folder / f"{options.set}-{options.gigabytes}", options.folder / "shards"
    complete = raw.with_name(f"{raw.name}.complete")
    if not complete.exists():
        shutil.rmtree(raw, ignore_errors=True)
        raw.mkdir(parents=True)
        _WRITERS[options.set](raw, int(options.gigabytes * 1e9))
        complete.touch()
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "mimicit", "build", "--src", str(raw), "--out", str(out)]
    measured = run_measured([*command, "--workers", str(options.workers)])
    if measured.returncode:
        sys.exit(measured.stderr)
    size = sum(path.stat().st_size for path in raw.rglob("*") if path.is_file())
    totals = read_manifest(out)["totals"]
    print(
        f"{options.set}, {size / 1e9:.1f} GB: {totals['samples']:,} samples, {totals['rejects']:,} rejects;"
        f" {measured.seconds:.0f} s, {size / measured.seconds / 1e6:.0f} MB/s, {measured.cpu_seconds:.0f} s of CPU,"
        f" largest process {measured.peak_rss / 2**20:.0f} MiB"
    )
    shutil.rmtree(out)


def write_mimicit_json(folder: Path, size: int) -> int:
    """A MIMIC-IT set whose picture file has at least ``size`` bytes; returns the number of its triplets."""
    count = 0
    with open(folder / "LA.json", "w") as pictures:
        pictures.write("{")
        for data in _pictures():
            comma = "," if count else ""
            pictures.write(f'{comma}"LA_IMG_{count:012d}": "{base64.b64encode(data).decode()}"')
            count += 1
            if pictures.tell() >= size:
                break
        pictures.write("}")
    _write_instructions(folder, count)
    return count


def write_mimicit_parquet(folder: Path, size: int) -> int:
    """The same with the pictures in a parquet file, as the Hub has it."""
    schema = pa.schema([("base64", pa.string()), ("index", pa.string())])
    count = 0
    pictures = _pictures()
    path = folder / "LA.parquet"
    with pq.ParquetWriter(path, schema) as writer:
        while not path.exists() or path.stat().st_size < size:
            texts = [base64.b64encode(next(pictures)).decode() for _ in range(_ROWS_PER_GROUP)]
            names = [f"LA_IMG_{count + place:012d}" for place in range(_ROWS_PER_GROUP)]
            writer.write_table(pa.table([texts, names], schema=schema))
            count += _ROWS_PER_GROUP
    _write_instructions(folder, count)
    return count


def write_llava(folder: Path, size: int) -> int:
    """A LLaVA array of long talks about a thousand pictures; returns the number of triplets."""
    (folder / "images").mkdir()
    pictures = _pictures(comment_bytes=1000)  # small: a picture stands in every sample that asks about it
    for number in range(1000):
        (folder / "images" / f"{number:06d}.jpg").write_bytes(next(pictures))
    rng = np.random.default_rng(1)
    count = 0
    with open(folder / "llava_instruct.json", "w") as file:
        file.write("[")
        while file.tell() < size:
            turns: list[dict[str, str]] = []
            for turn in range(4):
                words = rng.choice(_WORDS, 400)
                turns.append({"from": "human", "value": ("<image>\n" if turn == 0 else "") + f"Question {turn}?"})
                turns.append({"from": "gpt", "value": f"{count} " + " ".join(words)})
            row = {"id": f"{count:012d}", "image": f"images/{count % 1000:06d}.jpg", "conversations": turns}
            file.write(("," if count else "") + json.dumps(row))
            count += 1
        file.write("]")
    return 4 * count


def _pictures(comment_bytes: int = _COMMENT_BYTES) -> Iterator[bytes]:
    """Distinct JPEG files of the size of a photo: small pictures with a comment of noise."""
    rng = np.random.default_rng(0)
    data = io.BytesIO()
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), "RGB")
    small.resize((320, 240), Image.Resampling.BICUBIC).save(data, "JPEG")
    body = data.getvalue()
    while True:
        comment = rng.bytes(comment_bytes)
        yield body[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + body[2:]


def _write_instructions(folder: Path, count: int) -> None:
    with open(folder / "LA_instructions.json", "w") as instructions:
        instructions.write('{"meta": {"version": "0.0.1"}, "data": {')
        for number in range(count):
            comma = "," if number else ""
            triplet = {"instruction": "What?", "answer": f"{number}.", "image_ids": [f"LA_IMG_{number:012d}"]}
            instructions.write(f'{comma}"LA_INS_{number:012d}": {json.dumps(triplet)}')
        instructions.write("}}")


_WRITERS: dict[str, Callable[[Path, int], int]] = {
    "llava": write_llava,
    "mimicit-json": write_mimicit_json,
    "mimicit-parquet": write_mimicit_parquet,
}

if __name__ == "__main__":
    main()
