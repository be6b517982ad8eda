"""Shards as a `datasets.Dataset`: a table in the cache that names the pictures in the shards, or holds them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa

from mimicit.errors import BuildError, UsageError
from mimicit.hub import needed
from mimicit.hub.clips import clip_name, embedded_row
from mimicit.loading.order import digest
from mimicit.loading.samples import Samples, load
from mimicit.loading.storage.index_columns import default_cache
from mimicit.loading.storage.store import Store
from mimicit.sample_table import PICTURES, VIDEOS, row_of_sample, table_schema
from mimicit.shards.files import publish

if TYPE_CHECKING:
    import datasets

_LAYOUT: Final = 1  # raised when the rows of the same shards change
_BATCH_ROWS: Final = 1024
_BATCH_BYTES: Final = 8 << 20  # a reader of one row maps its whole batch, so batches with pictures end at this size


def to_datasets(
    shards: str | Path | Samples,
    *,
    streaming: bool = False,
    embed: bool = False,
    videos: bool = False,
    cache_dir: str | Path | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """The samples of ``shards`` (a folder, a URL, or what `load` returned) as a `datasets.Dataset`, one row each.

    Columns: ``id``, ``source``, ``media`` (``List(Image())``: the pictures, and the frames of clips one after the
    other), ``triplets``, ``media_info`` and ``meta``; see `mimicit.sample_table`. Rows come in the order of ``shards``:
    with ``load(..., shuffle="full", seed=0)``, in that of its first epoch. ``videos`` adds a column of that name
    (``List(Video())``), in which each clip is a file of its stored frames at their times (Motion JPEG, not encoded
    again); `datasets` decodes it with torchcodec.

    The texts are copied once, into a table of the cache (``cache_dir``, else ``$MIMICIT_CACHE`` or the user's cache),
    which is mapped from there and found again by the next call. Pictures are not copied: the table names their places
    in the shards (``mimicit://``), and each is read when its row is. ``map``, ``filter`` and ``shuffle`` do not copy
    them either, ``push_to_hub`` puts them in. ``to_parquet`` and ``save_to_disk`` write what the table holds, so the
    files still name the shards, which must stay where they are. With ``embed``, the table holds the bytes of the
    pictures as they are stored: one copy, as large as the shards, and all that is made from it stands alone.

    With ``streaming``, a `datasets.IterableDataset`, which copies nothing. Its ``state_dict`` is a position in
    the order of ``shards``, so resuming reads two samples again at most, wherever it stopped; ``split_dataset_by_node``
    and the workers of a ``DataLoader`` get equal shares. Shuffle by `load`; the buffer of ``IterableDataset.shuffle``
    is lost on resuming, as everywhere.

    `UsageError` if the extra ``hub`` is missing; otherwise errors as those of `load`.
    """
    library = needed("datasets", "to_datasets")
    if not isinstance(shards, str | Path | Samples):
        raise UsageError(f"to_datasets takes a folder, a URL or what load returned, not a {type(shards).__name__}")
    samples = shards if isinstance(shards, Samples) else load(shards)
    if streaming:
        from mimicit.hub.streaming import streamed  # imports `datasets`, which takes a second

        return streamed(samples, videos=videos)
    from mimicit.hub.in_shards import register

    register()  # other processes learn of it by the entry point, if mimicit is installed
    path = _table(
        samples, embed=embed, videos=videos, folder=Path(cache_dir) if cache_dir is not None else default_cache()
    )
    table: datasets.Dataset = library.Dataset.from_file(str(path))
    return table


def _table(samples: Samples, *, embed: bool, videos: bool, folder: Path) -> Path:
    """The Arrow file with the rows of ``samples``, written if it is not there yet."""
    prints = [samples.fingerprints[part] for part in ("content", "order", "filter")]
    place = "" if embed else _home(samples.store)
    name = digest(_LAYOUT, embed, videos, place, *prints)
    path = folder / "datasets" / f"{name}.arrow"
    if path.is_file():
        return path
    schema = table_schema(videos=videos)
    info = {**orjson.loads(schema.metadata[b"huggingface"]), "fingerprint": name}
    schema = schema.with_metadata({"huggingface": orjson.dumps(info)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            publish(path, path.with_name(f".{name}-{os.getpid()}.tmp")) as file,
            pa.ipc.new_stream(file, schema) as writer,
        ):
            for rows in _blocks(_embedded(samples, videos) if embed else _naming(samples, videos, place)):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    except OSError as error:
        raise BuildError(f"{error.filename or path}: {error.strerror}; give cache_dir= a folder with room") from error
    return path


def _home(store: Store) -> str:
    """The absolute path or the URL of the shards."""
    location = store.location.removeprefix("file://")
    return location if "://" in location else os.path.abspath(location)


def _embedded(samples: Samples, videos: bool) -> Iterator[tuple[dict[str, Any], int]]:
    for sample in samples:
        row = embedded_row(sample, videos=videos)
        yield row, sum(len(held["bytes"]) for column in (PICTURES, VIDEOS) for held in row.get(column, ()))


def _naming(samples: Samples, videos: bool, home: str) -> Iterator[tuple[dict[str, Any], int]]:
    from mimicit.hub.in_shards import in_shard_url

    store = samples.store
    for first in range(0, len(samples), _BATCH_ROWS):
        for row in samples.addresses(range(first, min(first + _BATCH_ROWS, len(samples)))):
            sample, offsets, sizes = store.without_data(row)
            shard = f"{home}/{store.shard_name(row).rpartition('/')[2]}"
            names = [
                f"{digest}.{file.rpartition('.')[2]}"
                for medium in sample.media
                for file, digest in zip(medium.files, medium.sha256, strict=True)
            ]
            spans = list(zip(offsets, sizes, strict=True))
            urls = [in_shard_url(shard, [span], name) for span, name in zip(spans, names, strict=True)]
            named = row_of_sample(sample, [{"bytes": None, "path": url} for url in urls])
            if videos:
                ahead = iter(spans)
                clips = [(medium, [next(ahead) for _ in medium.files]) for medium in sample.media]
                named[VIDEOS] = [
                    {"bytes": None, "path": in_shard_url(shard, frames, clip_name(medium))}
                    for medium, frames in clips
                    if medium.kind == "video"
                ]
            yield named, 0


def _blocks(rows: Iterator[tuple[dict[str, Any], int]]) -> Iterator[list[dict[str, Any]]]:
    """The rows in lists of bounded length and bytes."""
    while block := list(islice(rows, 1)):
        size = block[0][1]
        while len(block) < _BATCH_ROWS and size < _BATCH_BYTES and (more := next(rows, None)) is not None:
            block.append(more)
            size += more[1]
        yield [row for row, _ in block]
