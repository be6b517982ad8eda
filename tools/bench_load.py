"""Compare loaders: raw reads, decoding, random access, the first batch, resuming, memory, the quality of shuffling.

    python -m tools.bench_load --quick                              mimicit and webdataset, here
    python -m tools.bench_load --environments /tmp/envs --peers all every peer in an environment of its own

Runs alternate between the peers, and the median of each is taken; CPU time is what counts on a busy machine. A peer
that does not install, or cannot do a task, is passed over with a word. Environments see the packages of this one (so
that torch is not installed six times); what a peer pins is installed beside them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mimicit.loading.order import Order
from mimicit.media import MediaOptions
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from tools.load_peers import BATCH

PEERS = {
    "mimicit": None,
    "webdataset": "webdataset",
    "wids": "webdataset<1.0",
    "litdata": "litdata",
    "mosaicml": "mosaicml-streaming",
    "grain": "grain",
    "energon": "megatron-energon",
}
TASKS = ("sequential", "random", "decode", "first", "resume1", "resume50", "resume99")
CHILD = Path(__file__).with_name("load_peers.py")


def make_corpus(folder: Path, pictures: int) -> None:
    """Samples of one context and one query triplet about 640x480 JPEGs of 16 kB, as ``mimicit build`` writes them."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with open(raw / "manifest.jsonl", "w") as rows:
        for number in range(pictures):
            small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            smooth = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC)).astype(np.int16)
            noisy = np.clip(smooth + rng.integers(-2, 3, (480, 640, 1)), 0, 255).astype(np.uint8)
            data = io.BytesIO()
            Image.fromarray(noisy).save(data, "JPEG", quality=60)
            (raw / f"{number}.jpg").write_bytes(data.getvalue())
            row = {"id": f"{number}", "media": f"{number}.jpg", "instruction": "What is it?", "answer": f"{number}"}
            rows.write(json.dumps(row) + "\n")
    config = BuildConfig(shots=1, media=MediaOptions(size=0), shard_samples=max(64, pictures // 16))
    build_shards(raw, folder / "shards", config, engine=LocalEngine(1))


def environment(folder: Path, peer: str) -> Path | None:
    """The Python of an environment with ``peer`` in it; None, with a word, where it does not install."""
    home = folder / peer
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    packages = next(home.glob("lib/*/site-packages"))
    (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [str(python), "-m", "pip", "install", "--quiet", str(PEERS[peer])]
    installed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if installed.returncode:
        print(f"{peer}: passed over, it does not install: {installed.stderr.strip().splitlines()[-1][:200]}")
        return None
    (home / "ready").touch()
    return python


def run(python: Path, peer: str, task: str, corpus: Path) -> dict[str, Any]:
    """One measurement in a process of its own."""
    paths = f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [str(python), str(CHILD), peer, task, str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings, timeout=600)
    try:
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return {"skipped": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    return result


def shuffle_quality(samples_per_shard: int = 1000, shards: int = 200) -> dict[str, float]:
    """Distinct shards in a batch of 64, averaged: our window order, webdataset's buffer of 1,000, and the ideal."""
    length = samples_per_shard * shards
    order = Order(length=length, shuffle="window", seed=0).at(np.arange(64 * BATCH) + length // 3) // samples_per_shard
    ideal = np.random.default_rng(0).integers(0, shards, 64 * BATCH)
    result = {"mimicit window": order, "ideal": ideal}
    try:
        import webdataset
    except ImportError:
        pass
    else:
        stream = (place // samples_per_shard for place in range(length))
        mixed = webdataset.shuffle(1000, initial=1000, seed=0)(stream)
        result["webdataset shuffle(1000)"] = np.array([next(mixed) for _ in range(64 * BATCH)])
    return {
        name: float(np.mean([len(set(batch)) for batch in rows.reshape(-1, BATCH).tolist()]))
        for name, rows in result.items()
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few samples, one round")
    parser.add_argument("--environments", type=Path, help="where environments of peers are made and kept")
    parser.add_argument("--peers", default="mimicit,webdataset", help="comma-separated, or all")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--samples", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--corpus", type=Path, help="kept there and used again")
    parser.add_argument("--json", type=Path, help="write all results")
    options = parser.parse_args()
    names = list(PEERS) if options.peers == "all" else options.peers.split(",")
    rounds = options.rounds or (1 if options.quick else 5)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = options.corpus or Path(scratch)
        if not (corpus / "shards" / "manifest.json").exists():
            make_corpus(corpus, options.samples or (300 if options.quick else 2000))
        pythons = {
            peer: Path(sys.executable) if options.environments is None or peer == "mimicit" else python
            for peer in names
            if (python := _python(options.environments, peer)) is not None
        }
        results: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for _ in range(rounds):
            for task in options.tasks.split(","):
                for peer, python in pythons.items():
                    results.setdefault(task, {}).setdefault(peer, []).append(run(python, peer, task, corpus))
    quality = shuffle_quality()
    print_table(results, quality)
    if options.json is not None:
        options.json.write_text(json.dumps({"results": results, "distinct_shards_per_64": quality}, indent=2))


def _python(environments: Path | None, peer: str) -> Path | None:
    if environments is None or peer == "mimicit":
        return Path(sys.executable)
    return environment(environments, peer)


def print_table(results: dict[str, dict[str, list[dict[str, Any]]]], quality: dict[str, float]) -> None:
    """Medians, and how many times our CPU time each peer takes."""
    print(f"{'task':11} {'peer':11} {'CPU µs':>10} {'wall µs':>10} {'× ours':>7} {'RSS MB':>7} {'state B':>8}")
    for task, peers in results.items():
        ours = statistics.median([row.get("cpu_us", float("nan")) for row in peers.get("mimicit", [{}])])
        for peer, rows in peers.items():
            good = [row for row in rows if "cpu_us" in row]
            if not good:
                print(f"{task:11} {peer:11} passed over: {rows[0].get('skipped', '')}")
                continue
            cpu, wall, rss = (statistics.median(row[name] for row in good) for name in ("cpu_us", "wall_us", "rss_mb"))
            state = good[0].get("state_bytes", "")
            print(f"{task:11} {peer:11} {cpu:10.1f} {wall:10.1f} {cpu / ours:7.2f} {rss:7.0f} {state:>8}")
    print("distinct shards in a batch of 64: " + ", ".join(f"{name} {value:.1f}" for name, value in quality.items()))


if __name__ == "__main__":
    main()
