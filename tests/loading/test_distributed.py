"""Real processes that talk through gloo at every step: nobody waits for ever, nothing is lost, killed runs go on.

Every step is ended by a collective operation, so a rank with one step more or less than the others would hang here as
it would in training; a hang is a failure after four minutes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mimicit.loading import Mixture, Pack, load, pack
from mimicit.loading.order import Ordered, Slots, Split
from mimicit.loading.torch import Loader
from tests.factories.loading import small_shards

PATIENCE_S = 240.0

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def start(function: Callable[..., None], world: int, place: Path, *args: Any) -> Any:
    """``function(rank, world, place, *args)`` in ``world`` processes; the result is to be joined or killed."""
    (place / "rendezvous").unlink(missing_ok=True)
    return mp.start_processes(_process, (world, place, function, args), nprocs=world, join=False, start_method="fork")


def _process(rank: int, world: int, place: Path, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{place / 'rendezvous'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=PATIENCE_S),
    )
    function(rank, world, place, *args)
    dist.destroy_process_group()


def join(processes: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not processes.join(timeout=1):
        assert time.monotonic() < end, "a rank hangs"


def value_names(value: Any) -> list[str]:
    """The keys in a slot: of a sample, or of the samples of a pack."""
    return [sample.key for sample in (value.samples if isinstance(value, Pack) else [value])]


def names(slots: Slots[Any]) -> list[list[str] | None]:
    return [None if value is None else value_names(value) for value in slots.values]


def global_batches(place: Path, world: int) -> list[list[Any]]:
    """What the ranks have written, step by step; a step that not all of them have written is left out."""
    ranks = [[json.loads(line) for line in (place / f"rank{rank}").read_text().splitlines()] for rank in range(world)]
    return [[*chain(*parts)] for parts in zip(*ranks, strict=False)]


def evaluate(rank: int, world: int, place: Path, shards: Path, batch_size: int, workers: int) -> None:
    loader = Loader(
        load(shards, shuffle="full"), batch_size=batch_size, evaluate=True, num_workers=workers, collate=names
    )
    with open(place / f"rank{rank}", "w") as file:
        for batch in loader:
            valid = torch.tensor(sum(value is not None for value in batch))
            dist.all_reduce(valid)  # hangs where another rank has fewer steps
            assert 0 < int(valid) <= batch_size
            file.write(json.dumps(batch) + "\n")
    states: list[Any] = [None] * world
    dist.all_gather_object(states, loader.state_dict())
    assert all(state == states[0] for state in states)


@pytest.mark.parametrize(
    ("samples", "shard_bytes", "shard_count", "world", "workers", "batch_size"),
    [
        (10, 1 << 30, 1, 2, 4, 4),  # 1 shard, 8 workers
        (37, 30_000, 5, 2, 2, 8),  # 5 shards, 2 x 2
        (7, 1 << 30, 1, 4, 0, 8),  # 7 samples, more slots
        pytest.param(7, 1 << 30, 1, 64, 0, 64, marks=pytest.mark.slow),
    ],
)
def test_uneven_shards(
    tmp_path: Path, samples: int, shard_bytes: int, shard_count: int, world: int, workers: int, batch_size: int
) -> None:
    shards = small_shards(tmp_path, samples, shard_bytes)
    everything = load(shards)
    assert len(everything) == samples and len(everything.manifest["shards"]) == shard_count
    join(start(evaluate, world, tmp_path, shards, batch_size, workers))
    steps = global_batches(tmp_path, world)
    assert len(steps) == -(-samples // batch_size)
    seen = Counter(key for slot in chain(*steps) if slot is not None for key in slot)
    assert seen == Counter(sample.key for sample in everything)


def test_seven_samples_on_64_ranks_by_arithmetic() -> None:
    splits = [Split(batch_size=64, rank=rank, world_size=64, end=7) for rank in range(64)]
    assert {split.steps_before_end() for split in splits} == {1}
    assert [split.positions(0) for split in splits] == [[rank] if rank < 7 else [-1] for rank in range(64)]
    training = [Split(batch_size=64, rank=rank, world_size=64) for rank in range(64)]
    shown = [position % 7 for step in range(7) for split in training for position in split.positions(step)]
    assert Counter(shown) == dict.fromkeys(range(7), 64)  # 7 steps of 64 are 64 epochs of 7


def everything_on(place: Path) -> Ordered[Pack]:
    """Filter, mixture and packing at once."""
    return Mixture(
        [
            pack(load(place / name / "shards", shuffle="window", seed=5, where=where), budget=900, cost="characters")
            for name, where in (("a", {"max_characters": 330}), ("b", None))
        ],
        [2.0, 1.0],
        seed=5,
        window=6,
    )


def train(rank: int, world: int, place: Path, workers: int, state: Any, steps: int, pause_s: float) -> None:
    loader = Loader(everything_on(place), batch_size=12, num_workers=workers, collate=names)
    if state is not None:
        loader.load_state_dict(state)
    with open(place / f"rank{rank}", "w", buffering=1) as file:
        for batch in islice(loader, steps):
            file.write(json.dumps(batch) + "\n")
            dist.barrier()
            if rank == 0:
                (place / "state.new").write_text(json.dumps(loader.state_dict()))
                os.replace(place / "state.new", place / "state")
            time.sleep(pause_s)


def test_killed_anywhere_resumes_elsewhere(tmp_path: Path) -> None:
    """SIGKILL to 2 ranks of 2 workers; 1 of 3 and 4 of 0 go on with the same samples in the same batches."""
    for name, count in (("a", 21), ("b", 34)):
        small_shards(tmp_path / name, count, shard_bytes=25_000, name=name)
    samples, total = everything_on(tmp_path), 30
    whole = [
        names(Slots(0, (), tuple(map(samples.fetch, samples.addresses(range(12 * s, 12 * s + 12))))))
        for s in range(total)
    ]
    processes = start(train, 2, tmp_path, 2, None, total, 0.02)
    kill_at, end = random.Random(os.getpid()).randint(3, 15), time.monotonic() + PATIENCE_S
    while not (tmp_path / "state").exists() or json.loads((tmp_path / "state").read_text())["batches"] < kill_at:
        assert time.monotonic() < end
        time.sleep(0.01)
    for process in processes.processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    state = json.loads((tmp_path / "state").read_text())
    done = state["batches"]
    assert kill_at <= done < total and len(json.dumps(state)) <= 512
    assert global_batches(tmp_path, 2)[:done] == whole[:done]
    for world, workers in ((1, 3), (4, 0)):
        join(start(train, world, tmp_path, workers, state, total - done, 0))
        assert global_batches(tmp_path, world) == whole[done:]
