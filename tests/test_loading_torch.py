"""The torch adapter: one global order for every world size and worker count."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from torch.utils.data import DataLoader

from mimicit.build import BuildConfig, build_shards
from mimicit.build.engine import LocalEngine
from mimicit.errors import UsageError
from mimicit.loading import load
from mimicit.loading.torch import PositionSampler, SampleDataset
from mimicit.records import Sample
from tests.factories import raw as make


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("torch")
    make.add_manifest(place / "raw", pictures=7)
    build_shards(place / "raw", place / "shards", BuildConfig(), engine=LocalEngine(1))
    return place / "shards"


def keys(batch: list[Sample]) -> list[str]:
    return [sample.key for sample in batch]


def batches(shards: Path, *, rank: int, world_size: int, workers: int, start: int = 0) -> list[list[str]]:
    sampler = PositionSampler(batch_size=4, steps=12, start_step=start, rank=rank, world_size=world_size)
    dataset = SampleDataset(load(shards, shuffle="full", seed=1))
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=keys,
        multiprocessing_context="spawn" if workers else None,
    )
    return list(loader)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (1, 2), (2, 0), (4, 0), (2, 1)])
def test_global_batches_are_the_same(shards: Path, world_size: int, workers: int) -> None:
    samples = load(shards, shuffle="full", seed=1)
    wanted = [[samples.get(p).key for p in range(4 * step, 4 * step + 4)] for step in range(12)]
    parts = [batches(shards, rank=rank, world_size=world_size, workers=workers) for rank in range(world_size)]
    assert [[*chain(*step)] for step in zip(*parts, strict=True)] == wanted
    assert len({key for step in wanted for key in step}) == len(samples) == 21


def test_starting_later_gives_the_rest(shards: Path) -> None:
    whole = batches(shards, rank=0, world_size=1, workers=0)
    assert batches(shards, rank=0, world_size=1, workers=0, start=5) == whole[5:]


@pytest.mark.parametrize(("batch_size", "rank", "world_size"), [(4, 0, 3), (0, 0, 1), (4, 2, 2)])
def test_uneven_splits_are_refused(batch_size: int, rank: int, world_size: int) -> None:
    with pytest.raises(UsageError):
        PositionSampler(batch_size=batch_size, steps=1, rank=rank, world_size=world_size)
