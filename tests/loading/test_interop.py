"""Our shards in other people's pipelines: webdataset and datasets, the real libraries."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mimicit.errors import ChangedShardError, CorruptShardError
from mimicit.loading.interop import from_webdataset, to_webdataset
from mimicit.loading.storage.store import Store
from mimicit.records import Sample
from tests.factories.raw import picture
from tests.factories.shards import picture_sample, write_shards

# webdataset leaves it to the garbage collector to close its files.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """So that it does so here, and not in the middle of another test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def wanted() -> list[Sample]:
    shared = picture(99)
    return [picture_sample(n, [picture(n), shared]) for n in range(10)]


@pytest.fixture(scope="module", params=[False, True], ids=["inline", "links"])
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wanted: list[Sample]) -> Path:
    return write_shards(tmp_path_factory.mktemp("interop") / "shards", wanted, per_shard=3, links=request.param)


def test_a_pipeline_of_webdataset_yields_the_samples(shards: Path, wanted: list[Sample]) -> None:
    wds = pytest.importorskip("webdataset", reason="comes with the extra 'train'")
    pipeline = to_webdataset(shards)
    assert isinstance(pipeline, wds.DataPipeline)
    assert list(pipeline) == wanted
    batches = list(pipeline.compose(wds.shuffle(100, initial=100), wds.batched(4, collation_fn=None)))
    assert sorted(sample.id for batch in batches for sample in batch) == sorted(sample.id for sample in wanted)
    assert [len(batch) for batch in batches] == [4, 4, 2]


@pytest.mark.slow  # worker processes import torch anew
def test_workers_split_the_shards(shards: Path, wanted: list[Sample]) -> None:
    wds = pytest.importorskip("webdataset", reason="comes with the extra 'train'")
    loader = wds.WebLoader(to_webdataset(shards), batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert sorted(sample.id for sample in loader) == sorted(sample.id for sample in wanted)


def test_a_cut_shard_raises_where_webdataset_ends_early(tmp_path: Path, wanted: list[Sample]) -> None:
    wds = pytest.importorskip("webdataset", reason="comes with the extra 'train'")
    folder = write_shards(tmp_path / "cut", wanted, per_shard=10)
    path = folder / "shard-000.tar"
    end = Store(folder).columns(["offset"]).column("offset")[6].as_py()
    path.write_bytes(path.read_bytes()[:end])
    stock = wds.WebDataset(str(path), shardshuffle=False, empty_check=False).map(from_webdataset)
    assert len(list(stock)) == 6  # in silence
    with pytest.raises(ChangedShardError, match=r"shard-000\.tar"):
        list(to_webdataset(folder))


def test_a_stock_pipeline_reads_inline_shards(tmp_path: Path, wanted: list[Sample]) -> None:
    wds = pytest.importorskip("webdataset", reason="comes with the extra 'train'")
    folder = write_shards(tmp_path / "inline", wanted, per_shard=10)
    stock = wds.WebDataset(str(folder / "shard-000.tar"), shardshuffle=False).map(from_webdataset)
    assert list(stock) == wanted


def test_members_that_did_not_come_are_named(tmp_path: Path, wanted: list[Sample]) -> None:
    wds = pytest.importorskip("webdataset", reason="comes with the extra 'train'")
    folder = write_shards(tmp_path / "links", wanted, per_shard=10, links=True)
    stock = wds.WebDataset(str(folder / "shard-000.tar"), shardshuffle=False).map(from_webdataset)
    with pytest.raises(CorruptShardError, match=rf"sample {wanted[1].key}: 001\.jpg did not come along"):
        list(stock)
    with pytest.raises(CorruptShardError, match="before any decoding"):
        from_webdataset({"__key__": "k", "json": {}})


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_inline_shards(
    tmp_path: Path, wanted: list[Sample], streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sample must have the same files there; others are read after ``mimicit export --to datasets``."""
    datasets = pytest.importorskip("datasets", reason="comes with the extra 'hub'")
    folder = write_shards(tmp_path / "inline", wanted, per_shard=5)
    rows: Any = datasets.load_dataset(
        "webdataset",
        data_files={"train": str(folder / "*.tar")},
        split="train",
        streaming=streaming,
        cache_dir=str(tmp_path / "cache"),
    )
    found = list(rows)
    assert [row["__key__"] for row in found] == [sample.key for sample in wanted]
    assert [row["json"]["triplets"][-1]["answer"] for row in found] == [sample.query.answer for sample in wanted]
    assert found[0]["000.jpg"].size == (48, 32)
