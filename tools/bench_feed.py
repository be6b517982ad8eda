"""How long a training step waits for its data: shards that `mimicit build` wrote, read by so many workers.

    python -m tools.bench_feed --cpu --folder /tmp/feed      the model of 46 million weights of `tools.bench_train`
    python -m tools.bench_feed --folder /tmp/feed            otter-9b with random weights, on one GPU

Samples have one to five pictures and prompts of half the longest length up to all of it, as in `tools.bench_train`; a
step trains on four of them, as ``python -m otter_train --batch-size 4`` does, with the trainer's own loader. The clock
is that of the wall, so other work on the machine counts as well. The peer is the loader of one process, which reads
between the steps (``--workers 0``): what is waited for there is what the workers take off the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import torch

import mimicit
from otter_train.config.run_config import Precision
from otter_train.data.encoding import PromptEncoder
from otter_train.data.micro_batches import GroupCollator, each_group, training_loader
from otter_train.data.tokenizer import train_tokenizer
from otter_train.distributed import World
from tools.train_peers import SIZES, Case, Size, build, our_step, samples_of

_BATCH: Final = 4
_WARM_UP: Final = 4


def build_shards(folder: Path, size: Size, count: int) -> Path:
    """A folder of shards with ``count`` samples of ``size``; what is there is not built again."""
    raw, shards = folder / "raw", folder / "shards"
    if (shards / "manifest.json").exists():
        return shards
    raw.mkdir(parents=True, exist_ok=True)
    rows = []
    for sample in samples_of(count, size):
        for triplet in sample.triplets:
            (medium,) = (sample.media[place] for place in triplet.media)
            (raw / f"{triplet.id}.png").write_bytes(medium.data[0])
            row: dict[str, Any] = {"id": triplet.id, "media": f"{triplet.id}.png"}
            row |= {"instruction": triplet.instruction, "answer": triplet.answer}
            if triplet.role == "context":
                row["query"] = False
            else:  # a build shows the first of them last, right before the query
                row["related"] = [one.id for one in reversed(sample.context)]
            rows.append(json.dumps(row) + "\n")
    (raw / "manifest.jsonl").write_text("".join(rows), encoding="utf-8")
    command = [sys.executable, "-m", "mimicit", "build", "--src", str(raw), "--out", str(shards)]
    subprocess.run([*command, "--context", "related", "--shots", "4"], check=True, stdout=subprocess.DEVNULL)
    return shards


def feed(shards: Path, size: Size, workers: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds waited for data, and seconds in all, of each of ``steps`` steps after the warm-up."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision: Precision = "bfloat16" if device.type == "cuda" else "float32"
    samples = mimicit.load(shards, shuffle="full", seed=0)
    tokenizer = train_tokenizer((triplet.answer for triplet in samples[0].triplets), vocab_size=512)
    encoder = PromptEncoder(tokenizer, max_tokens=size.tokens)
    model = build(size, encoder.special, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    train_on = our_step(Case(), size, model, device, precision)
    loader = training_loader(
        samples,
        GroupCollator(encoder=encoder, image_size=model.vision.image_size, packed=True),
        batch_size=_BATCH,
        steps=_WARM_UP + steps,
        world=World(),
        workers=workers,
        pin_memory=device.type == "cuda",
    )
    waited, whole = [], []
    groups = each_group(loader)
    started = time.perf_counter()
    while (group := next(groups, None)) is not None:
        there = time.perf_counter()
        for batch in group:
            train_on(batch).item()  # waits for the device
        ended = time.perf_counter()
        waited.append(there - started)
        whole.append(ended - started)
        started = ended
    return waited[_WARM_UP:], whole[_WARM_UP:]


def line(workers: int, waited: list[float], whole: list[float]) -> str:
    """A row of the table, in Markdown."""
    return f"| {workers} | {statistics.median(whole):.3f} s | {sum(waited) / sum(whole):.2%} | {max(waited):.3f} s |"


def main() -> None:
    """Parse, build, train with each number of workers, print."""
    parser = argparse.ArgumentParser(description="How long a training step waits for its data.")
    parser.add_argument("--cpu", action="store_true", help="the small model, on one core")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mimicit-bench-feed")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each")
    given = parser.parse_args()
    on_cpu = given.cpu or not torch.cuda.is_available()
    if on_cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
    name = "cpu" if on_cpu else "otter-9b"
    size = SIZES[name]
    shards = build_shards(given.folder / name, size, _BATCH * (_WARM_UP + given.steps))
    print(f"{name}, prompts of up to {size.tokens} tokens, {_BATCH} samples a step, {os.cpu_count()} cores")
    print("| workers | a step | of it waiting for data | longest wait |\n| --- | --- | --- | --- |")
    for workers in given.workers:
        print(line(workers, *feed(shards, size, workers, given.steps)), flush=True)


if __name__ == "__main__":
    main()
