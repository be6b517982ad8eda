"""Shards as a pipeline of `webdataset`, and `Sample`s from what such a pipeline yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicit.errors import CorruptShardError, ShardError, UsageError
from mimicit.loading.storage.store import Check, Store
from mimicit.prompt import render
from mimicit.records import Sample
from mimicit.shards.reader import decode_sample, parse_sample_json

if TYPE_CHECKING:
    import pandas as pd


def to_webdataset(
    shards: str | Path,
    *,
    cache_dir: str | Path | None = None,
    cache_bytes: int | None = None,
    check: Check = "size",
) -> Any:
    """A `webdataset.DataPipeline` of the samples of a finished folder, for code that is built on webdataset.

    Shards are split over nodes and workers by webdataset's own stages; add more with ``pipeline.compose(...)``, such
    as ``webdataset.shuffle(1000)``. Samples come through `Store`: hard links (``--dedupe``) and URLs are resolved, and
    a cut shard raises instead of ending early. The options are those of `Store`. For equal steps on all ranks, or to
    resume, use `mimicit.load`.
    """
    try:
        import webdataset
    except ImportError:
        raise ShardError("to_webdataset needs webdataset; pip install 'mimicit[train]'") from None
    limits = {} if cache_bytes is None else {"cache_bytes": cache_bytes}
    store = Store(shards, cache_dir=cache_dir, check=check, **limits)
    return webdataset.DataPipeline(
        webdataset.SimpleShardList([str(number) for number in range(len(store.manifest["shards"]))]),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        _ShardSamples(store),
    )


def from_webdataset(item: Mapping[str, Any]) -> Sample:
    """The `Sample` of an item that a stock pipeline yields undecoded: ``WebDataset(urls).map(from_webdataset)``.

    `CorruptShardError` names the key if a member is missing, as in folders with hard links, which webdataset skips.
    """
    key = str(item.get("__key__", ""))
    where = f"{item.get('__url__', '')}: sample {key}"
    data = item.get("json")
    if not isinstance(data, bytes):
        raise CorruptShardError(f"{where}: has no undecoded .json; map from_webdataset before any decoding")
    files = [file for media in parse_sample_json(data, where)["media"] for file in media["files"]]
    missing = [file for file in files if not isinstance(item.get(file), bytes)]
    if missing:
        raise CorruptShardError(f"{where}: {missing[0]} did not come along; hard links are read by to_webdataset")
    return decode_sample([data, *(item[file] for file in files)], where)


class _ShardSamples:
    """A stage of a pipeline: numbers of shards in, their samples out."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, shards: Iterable[Mapping[str, str]]) -> Iterator[Sample]:
        for shard in shards:
            for row in self.store.rows_of_shard(int(shard["url"])):
                yield self.store.read(row)


def to_pandas(samples: Iterable[Sample]) -> pd.DataFrame:
    """One row per sample, its key as the index; media are counted, not copied.

    Columns: ``id``, ``source``, ``instruction`` and ``answer`` (of the query), ``context`` (triplets before it),
    ``relations`` and ``scores`` (lists, one per context triplet), ``images``, ``videos``, ``frames``, ``characters``
    and ``prompt``. All rows are held in memory: give a slice of a large folder, ``samples[:10_000]``. `UsageError`
    if pandas is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise UsageError("pandas is missing: pip install pandas") from None
    rows = [_row(sample) for sample in samples]
    return pd.DataFrame(rows, columns=["key", *_COLUMNS]).set_index("key")


_COLUMNS = (
    "id", "source", "instruction", "answer", "context", "relations", "scores",
    "images", "videos", "frames", "characters", "prompt",
)  # fmt: skip


def _row(sample: Sample) -> dict[str, Any]:
    kinds = [media.kind for media in sample.media]
    return {
        "key": sample.key,
        "id": sample.id,
        "source": sample.source,
        "instruction": sample.query.instruction,
        "answer": sample.query.answer,
        "context": len(sample.context),
        "relations": [triplet.relation for triplet in sample.context],
        "scores": [triplet.score for triplet in sample.context],
        "images": kinds.count("image"),
        "videos": kinds.count("video"),
        "frames": sum(len(media.files) for media in sample.media),
        "characters": sum(len(triplet.instruction) + len(triplet.answer) for triplet in sample.triplets),
        "prompt": render(sample),
    }
