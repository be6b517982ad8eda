"""`mimicit.load`: deterministic order, random access, damage is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mimicit.errors import CorruptShardError, ShardError, UsageError
from mimicit.loading import load
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.shards.reader import iterate_shard
from tests.factories import raw as make
from tests.factories.engines import InProcess


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("load")
    make.add_manifest(place / "raw", pictures=20)
    make.add_llava(place / "raw")
    build_shards(place / "raw", place / "shards", BuildConfig(shard_bytes=40_000), engine=InProcess())
    return place / "shards"


def test_stored_order_is_that_of_the_shards(shards: Path) -> None:
    stored = [item.sample for path in sorted(shards.glob("shard-*.tar")) for item in iterate_shard(path)]
    samples = load(shards)
    assert list(samples) == stored
    assert samples[-1] == stored[-1]
    assert samples[2:5] == stored[2:5]
    assert len(samples) == len(stored)
    with pytest.raises(IndexError):
        samples[len(stored)]


@pytest.mark.parametrize("shuffle", ["full", "window"])
def test_shuffled_order_is_a_permutation_and_repeats(shards: Path, shuffle: str) -> None:
    samples = load(shards, shuffle=shuffle, seed=3)  # type: ignore[arg-type]
    keys = [sample.key for sample in samples]
    assert sorted(keys) == sorted(sample.key for sample in load(shards))
    assert keys != [sample.key for sample in load(shards)]
    assert [sample.key for sample in load(shards, shuffle=shuffle, seed=3)] == keys  # type: ignore[arg-type]
    assert [sample.key for sample in load(shards, shuffle=shuffle, seed=4)] != keys  # type: ignore[arg-type]
    second = [samples.get(len(samples) + place).key for place in range(len(samples))]
    assert sorted(second) == sorted(keys)
    assert second != keys


def test_by_key_and_pickle(shards: Path) -> None:
    samples = load(shards)
    copy = pickle.loads(pickle.dumps(samples))
    for sample in samples[:5]:
        assert samples.by_key(sample.key) == copy.by_key(sample.key) == sample
    with pytest.raises(UsageError, match="nothing-here"):
        samples.by_key("nothing-here")


def test_a_changed_shard_is_refused_by_name(shards: Path, tmp_path: Path) -> None:
    import shutil

    damaged = tmp_path / "shards"
    shutil.copytree(shards, damaged)
    path = damaged / "shard-000.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(CorruptShardError, match=r"shard-000\.tar: its size"):
        load(damaged)[0]
    path.unlink()
    with pytest.raises(CorruptShardError, match=r"shard-000\.tar: No such file"):
        load(damaged)[0]
    with pytest.raises(ShardError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_the_fingerprint_follows_the_content(shards: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(shards, tmp_path / "copy")
    assert load(tmp_path / "copy").fingerprint == load(shards).fingerprint
