"""``index.parquet``: one row per sample, with its place in the shards and what reading it costs."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mimicit.errors import CorruptShardError, ShardError
from mimicit.media.bounds import memory_limit
from mimicit.records import Sample
from mimicit.shards.files import open_regular

INDEX_NAME: Final = "index.parquet"

JSON_COLUMN: Final = "json"
"""One more column of the index if others made the shards: the JSON of each sample, which their tars do not hold."""

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
"""The relations that mimicit makes; every index counts these, and those that strategies of other packages add."""


def relation_counts(relations: Sequence[str]) -> pa.DataType:
    """The type of the column ``relations``: how many context triplets a sample has of each."""
    return pa.struct([(name, pa.int32()) for name in relations])


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
        ("relations", relation_counts(RELATIONS)),
        ("triplets", pa.int32()),
        ("media", pa.int32()),
        ("videos", pa.int32()),
        ("frames", pa.int32()),  # files: one per picture, one per frame of a video
        ("characters", pa.int64()),  # of all instructions and answers
    ]
)

_TYPES: Final = {**{field.name: field.type for field in INDEX_SCHEMA}, JSON_COLUMN: pa.binary()}
_ROWS: Final = 4096
_MAX_BATCH_BYTES: Final = 384 << 20  # a sound batch takes a few; a page that unpacks to gigabytes fails
_MAX_KEYS_HELD: Final = 1_000_000


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


def index_schema(relations: pa.DataType) -> pa.Schema:
    """`INDEX_SCHEMA` with ``relations`` as the type of the column of that name."""
    return INDEX_SCHEMA.set(INDEX_SCHEMA.get_field_index("relations"), pa.field("relations", relations))


def sample_costs(sample: Sample) -> dict[str, Any]:
    """The columns that say what a sample holds: relations, triplets, media, videos, frames, characters."""
    counts = Counter(triplet.relation for triplet in sample.triplets if triplet.relation is not None)
    return {
        "relations": {**dict.fromkeys(RELATIONS, 0), **counts},
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
    """The index of a shard folder, or ``columns`` of it.

    `ShardError` if there is no index, `CorruptShardError` if it is unreadable or lacks a column.
    """
    with _opened(folder / INDEX_NAME, columns) as file:
        return file.read(columns=list(columns) if columns is not None else None)


def iterate_index(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of the index in order, a few thousand in memory at a time; errors as in `read_index`."""
    with _opened(folder / INDEX_NAME, None) as file:
        columns = [name for name in (*INDEX_SCHEMA.names, JSON_COLUMN) if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
            yield from batch.to_pylist()


def index_batches(folder: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """These columns of the index, some ten thousand rows at a time, in order; errors as in `read_index`."""
    with _opened(folder / INDEX_NAME, columns) as file:
        yield from file.iter_batches(batch_size=10_000, columns=list(columns))


def checked_batches(path: Path, *, has_json: bool) -> Iterator[pa.RecordBatch]:
    """The columns of the index at ``path``, which others may have written, a few thousand rows at a time.

    Errors as in `read_index`; `CorruptShardError` also if a column is of another type, has empty cells, or unpacks to
    more memory than an index takes.
    """
    columns = [*INDEX_SCHEMA.names, JSON_COLUMN] if has_json else INDEX_SCHEMA.names
    with _opened(path, columns) as file:
        if not has_json and JSON_COLUMN in file.schema_arrow.names:
            raise CorruptShardError(f"{path}: has the column {JSON_COLUMN}, which is for shards that others made")
        for name in columns:
            found, wanted = file.schema_arrow.field(name).type, _TYPES[name]
            if found != wanted and not (name == "relations" and _counts(found)):  # older indexes count fewer relations
                raise CorruptShardError(
                    f"{path}: column {name} is of type {found}, not {wanted}; build the folder again"
                )
        batches = file.iter_batches(batch_size=_ROWS, columns=columns)
        while True:
            with memory_limit(_MAX_BATCH_BYTES):
                batch = next(batches, None)
            if batch is None:
                return
            for name in columns:
                column = batch.column(name)
                lists = column.flatten() if pa.types.is_list(column.type) else column
                if column.null_count or lists.null_count:
                    raise CorruptShardError(f"{path}: column {name} has empty cells; build the folder again")
            yield batch.select(columns)


def repeated_key(path: Path, *, rows: int, within_shards: bool) -> str | None:
    """A key that several rows of the index at ``path`` have, or None; ``rows`` is how many rows it has.

    With ``within_shards``, samples of different shards may share a key. Above a million rows the keys go to disk.
    """
    if rows <= _MAX_KEYS_HELD:
        held: Counter[tuple[str, str]] = Counter()
        for batch in _key_batches(path):
            shards = batch.column("shard").to_pylist() if within_shards else [""] * batch.num_rows
            held.update(zip(shards, batch.column("key").to_pylist(), strict=True))
        return next((key for (_, key), count in held.items() if count > 1), None) if len(held) < rows else None
    import duckdb

    group = "shard, key" if within_shards else "key"
    query = f"SELECT any_value(key) FROM rows GROUP BY {group} HAVING count(*) > 1 LIMIT 1"
    with tempfile.TemporaryDirectory(prefix="mimicit-keys-") as spill:
        config: dict[str, Any] = {"memory_limit": "256MB", "temp_directory": spill, "threads": 2}
        with duckdb.connect(config=config) as db:
            schema = pa.schema([INDEX_SCHEMA.field(name) for name in ("shard", "key")])
            db.register("rows", pa.RecordBatchReader.from_batches(schema, _key_batches(path)))
            found = db.execute(query).fetchone()
    return None if found is None else str(found[0])


def _key_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with _opened(path, ["shard", "key"]) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=["shard", "key"]):
            yield batch.select(["shard", "key"])


def _counts(type: pa.DataType) -> bool:
    """Whether this is the type of a struct of whole numbers."""
    return bool(pa.types.is_struct(type) and all(pa.types.is_integer(field.type) for field in type))


@contextmanager
def _opened(path: Path, columns: Sequence[str] | None) -> Iterator[pq.ParquetFile]:
    try:
        source = open_regular(path)
    except FileNotFoundError:
        raise ShardError(f"{path}: no index; is {path.parent} a finished folder of shards?") from None
    except OSError as error:
        raise CorruptShardError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        with source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise CorruptShardError(f"{path}: has two columns of one name; build the folder again")
            missing = set(columns or INDEX_SCHEMA.names) - set(names)
            if missing:
                raise CorruptShardError(
                    f"{path}: column {', '.join(sorted(missing))} is missing; build the folder again"
                )
            yield file
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise CorruptShardError(f"{path}: unreadable ({error}); build the folder again") from None
