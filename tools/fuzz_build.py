"""Throw mutated files at the build and watch: no crash, no hang, no record unaccounted for, no unsound shard.

Each round lays out a folder of mutated pictures and clips behind one manifest, and of mutated text, table and archive
files that are sources of their own, builds it with ``--keep-going``, and verifies the result. A round that ends in
anything but shards or a `MimicitError`, whose decoder had to be ended, or that stood still for 10 s is kept, with the
seed that makes it again::

    python -m tools.fuzz_build --inputs 20000
    python -m tools.fuzz_build --seconds 60 --seed 7
"""

from __future__ import annotations

import argparse
import csv
import faulthandler
import io
import json
import os
import random
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mimicit.errors import MimicitError
from mimicit.media import MediaOptions
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.progress import Silent
from mimicit.shards.verify import verify_folder
from tools.mutate import mutated

PICTURES_PER_ROUND = 300
TEXTS_PER_ROUND = 100
HANG_S = 10
DEATHS = ("decoder_died", "timeout")


def main() -> int:
    """Run rounds until the inputs or the seconds are used up; exit 1 if any round failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where failed rounds are kept")
    options = parser.parse_args()
    started = time.monotonic()
    inputs = failures = seed = 0
    counts: Counter[str] = Counter()
    watch = Watch()
    seeds = corpus()
    while inputs < options.inputs and time.monotonic() - started < options.seconds:
        seed = options.seed + counts["rounds"]
        counts["rounds"] += 1
        with tempfile.TemporaryDirectory(prefix="mimicit-fuzz-") as name:
            folder = Path(name)
            inputs += lay_out(folder / "raw", random.Random(seed), seeds)
            fault = run_round(folder, counts, watch)
            if fault is not None:
                failures += 1
                print(f"seed {seed}: {fault}", flush=True)
                options.keep.mkdir(exist_ok=True)
                shutil.copytree(folder / "raw", options.keep / str(seed), dirs_exist_ok=True)
    elapsed = time.monotonic() - started
    outcome = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    bounds = f"longest pause {watch.longest_s:.1f} s ({watch.longest_stage}), largest process {watch.peak_mib:.0f} MiB"
    print(f"{inputs:,} mutated inputs in {elapsed:.0f} s: {outcome}; {bounds}; {failures} failed rounds")
    return 1 if failures else 0


class Watch(Silent):
    """The longest time without a finished task (one source, or some pictures), and the largest process so far."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.longest_stage = ""
        self.round_s = 0.0  # the longest of this round
        self.peak_mib = 0.0
        self._last = time.monotonic()

    def start(self) -> None:
        """A round begins."""
        self.round_s = 0.0
        self._last = time.monotonic()

    def update(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        """A task is finished."""
        pause_s = time.monotonic() - self._last
        self.round_s = max(self.round_s, pause_s)
        if pause_s > self.longest_s:
            self.longest_s, self.longest_stage = pause_s, stage
        self.peak_mib = max(self.peak_mib, *peaks_mib())
        self._last = time.monotonic()


def peaks_mib() -> list[float]:
    """The peak resident set of every process of this one's group that is alive."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == os.getpgrp():
                lines = (process / "status").read_text().splitlines()
                found += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
        except OSError:
            continue  # it has ended
    return found


def cpu_seconds() -> float:
    """What all processes of this one's group have used so far, with those that have ended and were waited for."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == os.getpgrp():
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        except OSError:
            continue  # it has ended
    return ticks / os.sysconf("SC_CLK_TCK")


def run_round(folder: Path, counts: Counter[str], watch: Watch) -> str | None:
    """What went wrong in one round, or None."""
    faulthandler.dump_traceback_later(120, exit=True)  # a hang of this process itself: say where
    watch.start()
    try:
        config = BuildConfig(media=MediaOptions(max_seconds=HANG_S))  # held by the kernel, medium by medium
        result = build_shards(
            folder / "raw", folder / "out", config, engine=LocalEngine(1), progress=watch, keep_going=True
        )
        findings = list(verify_folder(folder / "out"))
        if findings:
            return f"unsound: {findings[0]}"
        for source in result.manifest["sources"]:
            rejected = sum(source["rejected"].values())
            counts["records"] += source["in"]
            counts["rejects"] += rejected
            if any(reason in source["rejected"] for reason in DEATHS):
                return f"a worker had to die: {source['rejected']}"
            if source["in"] != source["out"] + source["merged"] + rejected:
                return f"unbalanced: {source}"
    except MimicitError as error:
        counts["refused builds"] += 1
        if len(str(error).splitlines()) > 1:
            return f"more than one line: {error}"
    except Exception:
        return traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
    if watch.round_s > HANG_S:
        return f"no task finished for {watch.round_s:.0f} s"
    return None


def lay_out(raw: Path, rng: random.Random, seeds: dict[str, list[bytes]]) -> int:
    """Write one folder of mutated inputs; returns how many there are."""
    (raw / "media").mkdir(parents=True)
    rows = []
    media = [name for name in seeds if name.startswith("media/")]
    texts = [name for name in seeds if not name.startswith("media/")]
    for number in range(PICTURES_PER_ROUND):
        name = rng.choice(media) if number % 20 else "media/mp4"
        path = f"media/{number}.{name.removeprefix('media/')}"
        (raw / path).write_bytes(mutated(rng.choice(seeds[name]), rng))
        rows.append({"id": str(number), "media": path, "instruction": "What?", "answer": "This."})
    (raw / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(TEXTS_PER_ROUND):
        name = rng.choice(texts)
        folder = raw / f"t{number}"
        folder.mkdir()
        (folder / "a.jpg").write_bytes(seeds["media/jpg"][0])
        (folder / name).write_bytes(mutated(rng.choice(seeds[name]), rng))
    return PICTURES_PER_ROUND + TEXTS_PER_ROUND


def corpus() -> dict[str, list[bytes]]:
    """Sound files of every kind, by file name or, under ``media/``, by extension."""
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height))
        for width, height in ((40, 30), (64, 64), (300, 20))
    ]
    found: dict[str, list[bytes]] = {}
    for extension, format in {
        "jpg": "JPEG",
        "png": "PNG",
        "webp": "WEBP",
        "gif": "GIF",
        "bmp": "BMP",
        "tif": "TIFF",
    }.items():
        found[f"media/{extension}"] = [_saved(picture, format) for picture in pictures]
    found["media/mp4"] = [_clip(frames) for frames in (1, 12)]
    triplets: list[dict[str, object]] = [
        {
            "id": str(n),
            "media": "a.jpg",
            "instruction": f"What is {n}?",
            "answer": f"It is {n}.",
            "related": [str(n - 1)],
        }
        for n in range(6)
    ]
    found["manifest.jsonl"] = ["".join(json.dumps(row) + "\n" for row in triplets).encode()]
    found["manifest.csv"] = [_csv(triplets)]
    found["manifest.parquet"] = [_parquet(triplets)]
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]
    llava = [{"id": n, "image": "a.jpg", "conversations": talk * 2} for n in range(5)]
    found["llava.json"] = [json.dumps(llava).encode()]
    data = {
        f"LA_INS_{n}": {"instruction": "What?", "answer": "A.", "image_ids": [], "rel_ins_ids": []} for n in range(5)
    }
    found["LA_instructions.json"] = [json.dumps({"meta": {"version": "0"}, "data": data}).encode()]
    found["documents.jsonl.zip"] = [_zip(found["manifest.jsonl"][0])]
    found["shard.tar"] = [_tar(found["media/jpg"][0])]
    return found


def _saved(picture: Image.Image, format: str) -> bytes:
    data = io.BytesIO()
    picture.save(data, format)
    return data.getvalue()


def _clip(frames: int) -> bytes:
    import av

    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return data.getvalue()


def _csv(rows: list[dict[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({**row, "related": json.dumps(row["related"])} for row in rows)
    return text.getvalue().encode()


def _parquet(rows: list[dict[str, object]]) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), data)
    return data.getvalue()


def _zip(content: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("documents.jsonl", content)
    return data.getvalue()


def _tar(picture: bytes) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for number in range(4):
            for suffix, content in (("jpg", picture), ("txt", b"A picture.")):
                info = tarfile.TarInfo(f"{number:05d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


if __name__ == "__main__":
    sys.exit(main())
