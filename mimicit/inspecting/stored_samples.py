"""The samples of a finished folder, or of one shard file, by row: their JSON alone, one file, or all of it.

A sample's JSON is a small read before its pictures, so counting and searching a folder of 10^6 samples touches some
hundred bytes of each and no picture. In a folder, the place of every sample comes from its index (memory-mapped if it
is large); a single shard file is read once to find them.

A sample names the first place that each of its media came from; the others stand in the ``media.parquet`` of its
folder, one row for each reference of the input. `origins_of` makes one pass over two of its columns, a batch at a time:
about a second for 10^6 media.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimicit.errors import CorruptShardError, ShardError
from mimicit.loading.storage.index_columns import IndexColumns
from mimicit.loading.storage.shard_files import OpenShards, ShardReader
from mimicit.loading.storage.store import open_folder, read_members
from mimicit.records import Media, Sample, sample_from_json
from mimicit.schema import canonical_json
from mimicit.shards.files import open_descriptor, open_regular
from mimicit.shards.reader import decode_sample, iterate_shard, parse_sample_json

_TABLE: Final = "media.parquet"  # as mimicit.pipeline.stages.media_table writes it
_BATCH: Final = 10_000


class StoredSamples:
    """Random access by row, from 0 in stored order; may be shared by threads. ``manifest`` is that of a folder."""

    def __init__(
        self, path: Path, columns: IndexColumns, shards: ShardReader, manifest: dict[str, Any] | None = None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._columns = columns
        self._shards = shards

    def __len__(self) -> int:
        return len(self._columns)

    def key(self, row: int) -> str:
        """The WebDataset key of the sample at ``row``."""
        return self._columns.key(row)

    def where(self, row: int) -> str:
        """Shard and key of the sample at ``row``, for messages."""
        return f"{self._shards.name(self._columns.shard(row))}: sample {self._columns.key(row)}"

    def shard(self, row: int) -> int:
        """The number of the shard that holds the sample at ``row``, in the order of the manifest."""
        return self._columns.shard(row)

    def json(self, row: int) -> bytes:
        """The JSON of the sample at ``row`` as stored; `IndexError` if there is no such row."""
        self._check(row)
        if self._columns.has_json:
            return self._columns.json(row)
        offsets, sizes = self._columns.members(row)
        return read_members(self._shards, self._columns.shard(row), offsets[:1], sizes[:1])[0]

    def peek(self, row: int) -> Sample:
        """The sample at ``row`` without the bytes of its media; `CorruptShardError` if it breaks the schema."""
        return sample_from_json(parse_sample_json(self.json(row), self.where(row)))

    def read(self, row: int) -> Sample:
        """The sample at ``row`` with the bytes of its media; errors as `peek`."""
        self._check(row)
        offsets, sizes = self._columns.members(row)
        payloads = read_members(self._shards, self._columns.shard(row), offsets, sizes)
        if self._columns.has_json:
            payloads.insert(0, self._columns.json(row))
        return decode_sample(payloads, self.where(row))

    def file(self, row: int, number: int) -> tuple[str, bytes]:
        """(name, bytes) of one file of the sample at ``row``, counted over all of its media.

        `IndexError` if there is no such row or file, `CorruptShardError` if index and JSON disagree.
        """
        names = [name for media in self.peek(row).media for name in media.files]
        if not 0 <= number < len(names):
            raise IndexError(f"file {number} of {len(names)}")
        offsets, sizes = self._columns.members(row)
        first = 0 if self._columns.has_json else 1
        if len(offsets) != first + len(names):
            raise CorruptShardError(f"{self.where(row)}: {len(offsets) - first} media files, {len(names)} in its JSON")
        at = slice(first + number, first + number + 1)
        return names[number], read_members(self._shards, self._columns.shard(row), offsets[at], sizes[at])[0]

    def close(self) -> None:
        """Close the shard files; they are opened again when needed."""
        self._shards.close()

    def _check(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} samples")


def open_samples(path: Path) -> StoredSamples:
    """The samples of a finished folder or of one shard file; `ShardError` and its subclasses if it is neither."""
    if path.is_dir():
        folder = open_folder(path, cache_dir=None, cache_bytes=0)
        return StoredSamples(path, folder.columns, folder.shards, folder.manifest)
    if not path.is_file():
        raise ShardError(f"{path}: no such file; give a shard-*.tar or a folder that mimicit build has written")
    shards = OpenShards(lambda _: open_descriptor(path), [str(path)])
    return StoredSamples(path, _columns_of_shard(path), shards)


def _columns_of_shard(path: Path) -> IndexColumns:
    keys: list[bytes] = []
    offsets: list[int] = []
    sizes: list[int] = []
    ends: list[int] = []
    for stored in iterate_shard(path):
        keys.append(stored.key.encode())
        offsets += stored.member_offsets
        sizes += stored.member_sizes
        ends.append(len(offsets))
    return IndexColumns(
        {
            "shards": np.zeros(len(keys), np.int32),
            "member_ends": np.array(ends, np.int64),
            "member_offsets": np.array(offsets, np.int64),
            "member_sizes": np.array(sizes, np.int64),
            "key_ends": np.array(list(accumulate(map(len, keys))), np.int64),
            "key_bytes": np.frombuffer(b"".join(keys), np.uint8),
        }
    )


def origins_of(path: Path, media: Sequence[Media]) -> list[tuple[str, ...]]:
    """All origins of each of the ``media`` of a sample in the folder or shard file ``path``, that of the sample first.

    If the folder has no table of media, such as a folder of another program, each has the one that the sample names.
    """
    found: dict[str, dict[str, None]] = {_content(medium): {} for medium in media}
    table = (path if path.is_dir() else path.parent) / _TABLE
    if media and table.is_file():
        _look_up(table, found)
    return [
        (medium.origin, *sorted(found[_content(medium)].keys() - {medium.origin}, key=_first_as_named(medium.origin)))
        for medium in media
    ]


def _first_as_named(origin: str) -> Any:
    return lambda place: (not place.startswith(origin), place)


def _content(medium: Media) -> str:
    """What identifies the stored files and their times, as the table has it."""
    if medium.kind == "image":
        return medium.sha256[0]
    times = [medium.sha256, medium.timestamps_s, medium.duration_s]
    return hashlib.sha256(canonical_json(times)).hexdigest()


def _look_up(table: Path, found: dict[str, dict[str, None]]) -> None:
    wanted = pa.array(list(found), pa.string())
    try:
        with open_regular(table) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=["content", "ref"]):
                for row in batch.filter(pc.is_in(batch.column("content"), wanted)).to_pylist():
                    found[row["content"]][_place(orjson.loads(row["ref"]))] = None
    except (pa.ArrowException, OSError, LookupError, TypeError, orjson.JSONDecodeError):
        return  # mimicit verify says what is wrong with the file


def _place(ref: dict[str, Any]) -> str:
    """The origin of one reference, with the place inside a file if that says more."""
    origin, part = str(ref["origin"]), ref["parts"][0]
    kind, path = part[0], str(part[1])
    if kind in ("parquet", "arrow"):
        group = "row group" if kind == "parquet" else "batch"
        return f"{origin} ({path}, {group} {part[2]}, row {part[3]})"
    return origin if origin.startswith(path) or path.startswith(origin) else f"{origin} ({path})"
