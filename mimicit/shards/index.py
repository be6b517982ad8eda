"""``index.parquet``: one row per sample, saying where it lies and what reading it will cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mimicit.errors import CorruptShardError, ShardError
from mimicit.records import Sample

__all__ = [
    "INDEX_NAME",
    "INDEX_SCHEMA",
    "JSON_COLUMN",
    "RELATIONS",
    "IndexRow",
    "index_batches",
    "iterate_index",
    "read_index",
    "rows_to_table",
    "sample_costs",
]

INDEX_NAME: Final = "index.parquet"

JSON_COLUMN: Final = "json"
"""Where others made the shards, the index has one more column: the JSON of each sample, which no tar holds."""

RELATIONS: Final = (
    "related",
    "conversation",
    "same_media",
    "random",
    "text_similar",
    "image_similar",
    "both_similar",
    "document",
)
"""The relations of ``schemas/sample.json``, in that order."""

INDEX_SCHEMA: Final = pa.schema(
    [
        ("shard", pa.string()),
        ("key", pa.string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("offset", pa.int64()),  # of the first member's header, in bytes from the start of the shard
        ("size", pa.int64()),  # bytes from there to the end of the last member's padding
        ("member_offsets", pa.list_(pa.int64())),  # of the payloads, in bytes from the start of the shard
        ("member_sizes", pa.list_(pa.int64())),  # bytes
        ("relations", pa.struct([(name, pa.int32()) for name in RELATIONS])),  # context triplets of each relation
        ("triplets", pa.int32()),
        ("media", pa.int32()),
        ("videos", pa.int32()),
        ("frames", pa.int32()),  # files: one per picture, one per frame of a video
        ("characters", pa.int64()),  # of all instructions and answers
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """One row of the index; the columns of `INDEX_SCHEMA` except the costs, which `sample_costs` computes."""

    shard: str
    key: str
    offset: int
    size: int
    member_offsets: Sequence[int]
    member_sizes: Sequence[int]
    sample: Sample


def sample_costs(sample: Sample) -> dict[str, Any]:
    """The columns that say what a sample holds: relations, triplets, media, videos, frames, characters."""
    counts = Counter(triplet.relation for triplet in sample.triplets)
    return {
        "relations": {name: counts[name] for name in RELATIONS},
        "triplets": len(sample.triplets),
        "media": len(sample.media),
        "videos": sum(media.kind == "video" for media in sample.media),
        "frames": sum(len(media.files) for media in sample.media),
        "characters": sum(len(triplet.instruction) + len(triplet.answer) for triplet in sample.triplets),
    }


def rows_to_table(rows: Sequence[IndexRow]) -> pa.Table:
    """The rows as an Arrow table of `INDEX_SCHEMA`."""
    records = [
        {
            "shard": row.shard,
            "key": row.key,
            "id": row.sample.id,
            "source": row.sample.source,
            "offset": row.offset,
            "size": row.size,
            "member_offsets": list(row.member_offsets),
            "member_sizes": list(row.member_sizes),
            **sample_costs(row.sample),
        }
        for row in rows
    ]
    return pa.Table.from_pylist(records, schema=INDEX_SCHEMA)


def read_index(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The index of a shard folder (or the ``columns`` of it).

    `ShardError` where there is none, `CorruptShardError` where it is unreadable or lacks a column.
    """
    with _opened(folder, columns) as file:
        return file.read(columns=list(columns) if columns is not None else None)


def iterate_index(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of the index in order, a few thousand in memory at a time; errors as in `read_index`."""
    with _opened(folder, None) as file:
        for batch in file.iter_batches(batch_size=4096):
            yield from batch.to_pylist()


def index_batches(folder: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """These columns of the index, some ten thousand rows at a time, in order; errors as in `read_index`."""
    with _opened(folder, columns) as file:
        yield from file.iter_batches(batch_size=10_000, columns=list(columns))


@contextmanager
def _opened(folder: Path, columns: Sequence[str] | None) -> Iterator[pq.ParquetFile]:
    path = folder / INDEX_NAME
    if not path.is_file():
        raise ShardError(f"{path}: no index; is {folder} a finished folder of shards?")
    try:
        with pq.ParquetFile(path) as file:
            missing = set(columns or INDEX_SCHEMA.names) - set(file.schema_arrow.names)
            if missing:
                raise CorruptShardError(
                    f"{path}: column {', '.join(sorted(missing))} is missing; build the folder again"
                )
            yield file
    except (pa.ArrowException, OSError) as error:
        raise CorruptShardError(f"{path}: unreadable ({error}); build the folder again") from None
