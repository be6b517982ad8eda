"""The torch adapter: one global order for every world size and worker count, resumable at every batch."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from torch.utils.data import DataLoader

from mimicit.errors import CorruptShardError, UsageError
from mimicit.loading import Mixture, Pack, Quarantine, Samples, load, load_mixture, pack
from mimicit.loading.order import PADDING, Ordered, Slots
from mimicit.loading.torch import Loader, PositionSampler, SampleDataset
from mimicit.records import Sample
from tests.factories.loading import VirtualStore, small_shards

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("torch"), 21, shard_bytes=20_000)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("others"), 34, name="other")


def keys(batch: Sequence[Sample | None]) -> list[str | None]:
    return [sample.key if sample else None for sample in batch]


def shown(slots: Slots[Any]) -> tuple[int, list[Any]]:
    """The step, and for each slot its key or those of its pack."""
    values = [keys(value.samples) if isinstance(value, Pack) else value and value.key for value in slots.values]
    return slots.step, values


def everything_on(shards: Path, others: Path) -> Ordered[Pack]:
    """Filter, mixture and packing at once."""
    parts = [
        pack(load(folder, shuffle="window", seed=5, where={"max_characters": 330}), budget=900, cost="characters")
        for folder in (shards, others)
    ]
    return Mixture(parts, [2.0, 1.0], seed=5, window=6)


def plain_batches(shards: Path, *, rank: int, world_size: int, workers: int, start: int = 0) -> list[list[str | None]]:
    sampler = PositionSampler(batch_size=4, steps=12, start_step=start, rank=rank, world_size=world_size)
    dataset = SampleDataset(load(shards, shuffle="full", seed=1))
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=keys,
        multiprocessing_context="fork" if workers else None,
    )
    return list(loader)


@pytest.mark.parametrize(
    ("world_size", "workers"),
    [(1, 0), (1, 2), (2, 0), (4, 0), (2, 1)],
)
def test_plain_data_loader(shards: Path, world_size: int, workers: int) -> None:
    samples = load(shards, shuffle="full", seed=1)
    wanted = [[samples.get(p).key for p in range(4 * step, 4 * step + 4)] for step in range(12)]
    parts = [plain_batches(shards, rank=rank, world_size=world_size, workers=workers) for rank in range(world_size)]
    assert [[*chain(*step)] for step in zip(*parts, strict=True)] == wanted
    assert len({key for step in wanted for key in step}) == len(samples) == 21


def test_starting_later_gives_the_rest(shards: Path) -> None:
    whole = plain_batches(shards, rank=0, world_size=1, workers=0)
    assert plain_batches(shards, rank=0, world_size=1, workers=0, start=5) == whole[5:]


def test_evaluation_with_a_plain_data_loader(shards: Path) -> None:
    dataset = SampleDataset(load(shards))
    seen: list[str | None] = []
    for rank in range(2):
        sampler = PositionSampler(batch_size=8, end=len(dataset), rank=rank, world_size=2)
        batches = list(DataLoader(dataset, batch_sampler=sampler, collate_fn=keys))
        assert len(batches) == len(sampler) == 3
        seen += chain(*batches)
    assert sorted(key for key in seen if key) == sorted(keys(load(shards)))
    assert seen.count(None) == 3


@pytest.mark.parametrize(("batch_size", "rank", "world_size"), [(4, 0, 3), (0, 0, 1), (4, 2, 2)])
def test_uneven_splits_are_refused(shards: Path, batch_size: int, rank: int, world_size: int) -> None:
    with pytest.raises(UsageError):
        PositionSampler(batch_size=batch_size, steps=1, rank=rank, world_size=world_size)
    with pytest.raises(UsageError):
        Loader(load(shards), batch_size=batch_size, rank=rank, world_size=world_size)


def run(samples: Ordered[Any], world: int, state: Any, count: int, **options: Any) -> tuple[list[Any], list[Any]]:
    """Global batches of ``count`` steps after ``state`` with ``world`` ranks, and the states the ranks end with."""
    ranks, states = [], []
    for rank in range(world):
        loader = Loader(samples, batch_size=12, rank=rank, world_size=world, collate=shown, **options)
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
        ranks.append(list(islice(loader, count)))
        states.append(loader.state_dict())
    steps = [[step for step, _ in batches] for batches in ranks]
    assert all(each == steps[0] for each in steps)
    batches = [[*chain(*(values for _, values in parts))] for parts in zip(*ranks, strict=True)]
    return list(zip(steps[0], batches, strict=True)), states


@pytest.mark.parametrize("everything", [False, True])
def test_resume_is_exact_and_elastic(shards: Path, others: Path, everything: bool) -> None:
    """Stopped at any step with 2 ranks of 2 workers, 1 of 3 and 4 of 0 go on with the same global batches."""
    samples = everything_on(shards, others) if everything else load(shards, shuffle="full", seed=1)
    whole, _ = run(samples, 1, None, 12)
    assert [step for step, _ in whole] == list(range(12))
    for stop in random.Random(3).sample(range(1, 11), 2):
        begun, states = run(samples, 2, None, stop, num_workers=2, context="fork")
        assert begun == whole[:stop]
        assert states[0] == states[1] and states[0]["batches"] == stop  # delivered, whatever was prefetched
        assert len(json.dumps(states[0])) <= 512
        resumed = everything_on(shards, others) if everything else load(shards, shuffle="full", seed=1)
        for world, workers in ((1, 3), (4, 0)):
            rest, _ = run(resumed, world, states[0], 12 - stop, num_workers=workers)
            assert rest == whole[stop:]


def test_packs_made_anew_in_each_epoch_go_on_from_the_middle_of_one(others: Path) -> None:
    """Stopped within the second and the third epoch; nobody has seen the packs of the first then."""

    def packs() -> Ordered[Pack]:
        return pack(load(others, shuffle="full", seed=1), budget=900, cost="characters")

    epochs, samples = 4, packs()
    total = epochs * len(samples) // 12
    whole, _ = run(samples, 1, None, total)
    places = [tuple(sorted(pack)) for _, batch in whole for pack in batch][: total * 12]
    first, second = (places[epoch * len(samples) : (epoch + 1) * len(samples)] for epoch in (1, 2))
    assert {key for pack in first for key in pack} == {key for pack in second for key in pack}
    assert len(set(first) & set(second)) < len(first) / 2
    for epoch in (1, 2):
        stop = int((epoch + 0.5) * len(samples)) // 12
        begun, states = run(samples, 2, None, stop)
        assert begun == whole[:stop]
        for world, workers in ((1, 2), (4, 0)):
            rest, _ = run(packs(), world, states[0], total - stop, num_workers=workers, context="fork")
            assert rest == whole[stop:]


def test_no_option_of_the_workers_changes_a_batch(shards: Path, others: Path) -> None:
    samples = everything_on(shards, others)
    whole, _ = run(samples, 1, None, 4)
    for options in (
        {"num_workers": 1, "context": "spawn"},
        {"num_workers": 2, "persistent_workers": True, "prefetch": 5},
    ):
        assert run(samples, 1, None, 4, **options)[0] == whole


def test_persistent_workers_go_on_where_the_last_iteration_stopped(shards: Path) -> None:
    samples = load(shards, shuffle="full")
    whole, _ = run(samples, 1, None, 9)
    loader = Loader(samples, batch_size=12, num_workers=1, persistent_workers=True, collate=shown)
    parts = [list(islice(loader, count)) for count in (2, 3, 4)]
    assert [*chain(*parts)] == whole
    assert loader.step == 9


@pytest.mark.parametrize("workers", [0, 1])
def test_each_epoch_shows_each_sample_once_and_flows_into_the_next(shards: Path, workers: int) -> None:
    samples = load(shards, shuffle="window")
    loader = Loader(samples, batch_size=6, steps=7, num_workers=workers)
    slots = list(loader)
    assert len(slots) == len(loader) == 7
    values = [value.key for step in slots for value in step.values]
    assert all(all(step.valid) for step in slots)
    assert sorted(values[:21]) == sorted(values[21:]) == sorted(keys(samples))
    assert list(loader) == []


@pytest.mark.parametrize(("world", "batch_size"), [(1, 8), (4, 8), (64, 64)])
def test_evaluation_pads_and_all_ranks_take_as_many_steps(shards: Path, world: int, batch_size: int) -> None:
    samples = load(shards)
    loaders = [
        Loader(samples, batch_size=batch_size, evaluate=True, rank=rank, world_size=world) for rank in range(world)
    ]
    for _ in range(2):  # a second pass is the same as the first
        slots = [list(loader) for loader in loaders]
        assert {len(steps) for steps in slots} == {-(-21 // batch_size)} == {len(loaders[0])}
        seen = [value for steps in slots for step in steps for value in step.values if value is not None]
        assert sorted(keys(seen)) == sorted(keys(samples))
        for step in chain(*slots):
            assert len(step.values) == batch_size // world
            assert step.valid == tuple(position != PADDING for position in step.positions)


def test_a_state_of_something_else_is_refused_by_name(shards: Path, others: Path) -> None:
    def state_of(samples: Ordered[Any], batch_size: int = 4) -> dict[str, Any]:
        return Loader(samples, batch_size=batch_size).state_dict()

    loader = Loader(load(shards, shuffle="full"), batch_size=4)
    for samples, part in (
        (load(others, shuffle="full"), "content"),
        (load(shards, shuffle="full", seed=1), "order"),
        (load(shards, shuffle="full", where={"max_characters": 300}), "filter"),
        (load_mixture([(shards, 1)], shuffle="full"), "mixture"),
        (pack(load(shards, shuffle="full"), budget=500, cost="characters"), "packing"),
    ):
        with pytest.raises(UsageError, match=f"another {part} "):
            loader.load_state_dict(state_of(samples))
    with pytest.raises(UsageError, match=r"another batch_size \(8, here 4\)"):
        loader.load_state_dict(state_of(load(shards, shuffle="full"), 8))
    loader.load_state_dict(state_of(load(shards, shuffle="full")))


def change_weights_again_and_again(loader: Loader[Any]) -> None:
    for _ in range(40):
        loader.load_state_dict({**loader.state_dict(), "batches": loader.step + 2})
        loader.set_weights([1, 1])


@pytest.mark.parametrize("workers", [0, 1])
def test_weights_changed_during_a_run_are_part_of_its_state(shards: Path, others: Path, workers: int) -> None:
    def loader(world: int = 1, rank: int = 0) -> Loader[Sample]:
        mixed = load_mixture([(shards, 1), (others, 1)], shuffle="full", window=8)
        return Loader(
            mixed, batch_size=4, steps=12, rank=rank, world_size=world, num_workers=workers * (world == 1)
        )  # fmt: skip

    first = loader()
    batches, state = [], {}
    for slots in first:
        batches.append(keys(slots.values))
        if slots.step == 2:
            first.set_weights([7, 1])
        if slots.step == 5:
            state = first.state_dict()
    assert len(json.dumps(state)) <= 512 and state["weights"][0][0] == 2  # positions 12 and after: window 2
    sources = ["own" in str(key) for key in chain(*batches)]
    assert [sum(sources[n : n + 8]) for n in range(0, 48, 8)] == [4, 4, 7, 7, 7, 7]
    halves = []
    for rank in range(2):
        resumed = loader(2, rank)
        resumed.load_state_dict(state)
        halves.append([keys(slots.values) for slots in resumed])
    assert [[*chain(*step)] for step in zip(*halves, strict=True)] == batches[6:]
    with pytest.raises(UsageError, match="changes of weights make a state"):
        change_weights_again_and_again(first)
    assert len(json.dumps(first.state_dict())) <= 512
    with pytest.raises(UsageError, match="these samples are none"):
        Loader(load(shards), batch_size=4).set_weights([1])


def damaged_in(sample: Sample, picture: bytes) -> bool:
    return any(picture[:-60] + bytes(60) in media.data for media in sample.media)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_sample_raises_or_is_masked_in_its_slot(shards: Path, tmp_path: Path, workers: int) -> None:
    damaged = tmp_path / "shards"
    shutil.copytree(shards, damaged)
    whole, _ = run(load(damaged, shuffle="full"), 1, None, 3)
    victim = load(damaged)[4]
    path, picture = damaged / "shard-000.tar", victim.media[0].data[0]
    path.write_bytes(path.read_bytes().replace(picture, picture[:-60] + bytes(60)))
    hit = {sample.key for sample in load(damaged) if damaged_in(sample, picture)}
    assert 0 < len(hit) < len(whole[0][1])
    policy = Quarantine("mask", path=tmp_path / "bad.jsonl", most_fraction=1)
    masked, _ = run(load(damaged, shuffle="full", check="sha256", on_error=policy), 1, None, 3, num_workers=workers)
    assert masked == [(step, [None if key in hit else key for key in values]) for step, values in whole]
    assert victim.key in (tmp_path / "bad.jsonl").read_text()
    loader = Loader(load(damaged, shuffle="full", check="sha256"), batch_size=21, num_workers=workers)
    with pytest.raises(CorruptShardError, match=r"shard-000\.tar: sample"):
        next(iter(loader))


def decode(sample: Sample) -> int:
    if sample.media[0].origin.endswith("3.jpg"):
        raise CorruptShardError(f"{sample.key}: undecodable")
    return len(sample.media)


def test_what_cannot_be_decoded_is_a_bad_sample(shards: Path) -> None:
    samples = load(shards, on_error=Quarantine("mask", most_fraction=1))
    loader = Loader(samples.decoded(decode), batch_size=21, evaluate=True)
    (slots,) = loader
    assert slots.values == tuple(None if s.media[0].origin.endswith("3.jpg") else len(s.media) for s in samples)
    assert loader.state_dict() == {**Loader(samples, batch_size=21).state_dict(), "batches": 1}


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 with new torch
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_stateful_data_loader(shards: Path, workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="comes with the extra 'dev'")

    def loader(seed: int = 1) -> Any:
        return stateful.StatefulDataLoader(
            SampleDataset(load(shards, shuffle="full", seed=seed)),
            batch_sampler=PositionSampler(batch_size=4, steps=12),
            collate_fn=keys,
            num_workers=workers,
        )

    whole = list(loader())
    first = loader()
    begun = list(islice(first, 5))
    state = first.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    assert begun + list(resumed) == whole
    other = loader(seed=2)
    other.load_state_dict(state)
    if workers == 0:  # in a worker it raises as well, but the traceback then keeps the worker alive
        with pytest.raises(UsageError, match="another order"):
            list(other)


def first_batch_of_a_billion(shuffle: str) -> float:
    """Seconds until the batch in the middle of the first epoch."""
    started = time.perf_counter()
    samples = Samples(VirtualStore(10**9), shuffle=shuffle)  # type: ignore[arg-type]
    loader = Loader(samples, batch_size=64)
    loader.load_state_dict({**loader.state_dict(), "batches": 10**7})
    slots = next(iter(loader))
    assert len({value.id for value in slots.values}) == 64
    return time.perf_counter() - started


@pytest.mark.parametrize("shuffle", ["full", "window"])
def test_a_billion_samples_start_at_once(shuffle: str) -> None:
    """Below 1 s and, of memory that Python and numpy ask for, far below 200 MB."""
    tracemalloc.start()
    try:
        assert first_batch_of_a_billion(shuffle) < 1
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.slow  # a process of its own has a peak of its own
def test_a_billion_samples_take_little_memory() -> None:
    code = """
import resource
from tests.loading.test_torch import first_batch_of_a_billion
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shuffle in ("full", "window"):
    print(first_batch_of_a_billion(shuffle))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    full_s, window_s, extra_mb = map(float, done.stdout.split())
    assert max(full_s, window_s) < 1
    assert extra_mb < 200


def test_workers_get_no_order_and_no_filter() -> None:
    """What a worker receives does not grow with the number of samples."""
    samples = Samples(VirtualStore(10**6))  # type: ignore[arg-type]
    assert len(pickle.dumps(samples.fetch)) < 10_000
