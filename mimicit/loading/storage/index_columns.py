"""The columns of the index that reading needs, as flat arrays: constant time per row, no Python object per row.

A small index is decoded into memory when a folder is opened (about 50 MB/s of parquet). A large one is decoded once
into a folder of plain arrays named by the index's SHA-256, and memory-mapped from then on by every process: 10^7 rows
open in milliseconds, and only the touched pages take memory. Every place is checked against the shards here, so that
reading need not.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mimicit.errors import CorruptShardError
from mimicit.shards.files import open_regular, sync_folder
from mimicit.shards.index import JSON_COLUMN

LARGE_ROWS: Final = 200_000
"""From this many rows on, a store maps the index instead of holding it."""

_BATCH_ROWS: Final = 1 << 16
_NEEDED: Final = ("shard", "key", "member_offsets", "member_sizes")
_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "shards": np.dtype(np.int32),
    "member_ends": np.dtype(np.int64),  # running totals: the members of row r are [ends[r - 1], ends[r])
    "member_offsets": np.dtype(np.int64),
    "member_sizes": np.dtype(np.int64),
    "key_ends": np.dtype(np.int64),
    "key_bytes": np.dtype(np.uint8),
    "json_ends": np.dtype(np.int64),
    "json_bytes": np.dtype(np.uint8),
}

Arrays = Mapping[str, NDArray[Any]]


class IndexColumns:
    """Where every sample lies. ``folder`` is where the arrays are mapped from; None: they are held in memory."""

    def __init__(self, arrays: Arrays, folder: Path | None = None) -> None:
        self._arrays = arrays
        self._folder = folder
        # A memoryview gives Python integers, several times faster than the scalars of numpy.
        views = {name: array.data for name, array in arrays.items()}
        self._shards = views["shards"]
        self._member_ends = views["member_ends"]
        self._offsets = views["member_offsets"]
        self._sizes = views["member_sizes"]
        self._key_ends = views["key_ends"]
        self._key_bytes = views["key_bytes"]
        self._json_ends = views.get("json_ends")
        self._json_bytes = views.get("json_bytes")
        self._key_order: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def has_json(self) -> bool:
        """Whether the JSON of the samples is in the index, as in a folder of foreign shards."""
        return self._json_ends is not None

    def shard(self, row: int) -> int:
        """The number of the shard, in the order of the manifest."""
        return int(self._shards[row])

    def rows(self, shard: int) -> NDArray[np.int64]:
        """The rows of the samples of one shard, in order."""
        return np.flatnonzero(self._arrays["shards"] == shard)

    def members(self, row: int) -> tuple[list[int], list[int]]:
        """Offsets in the shard and sizes of the payloads of the members, in bytes."""
        start, end = self._member_ends[row - 1] if row else 0, self._member_ends[row]
        return self._offsets[start:end].tolist(), self._sizes[start:end].tolist()

    def key(self, row: int) -> str:
        """The WebDataset key."""
        return self._key(row).decode()

    def json(self, row: int) -> bytes:
        """The JSON of the sample, if `has_json`."""
        assert self._json_ends is not None and self._json_bytes is not None
        start = self._json_ends[row - 1] if row else 0
        return bytes(self._json_bytes[start : self._json_ends[row]])

    def row_of(self, key: str) -> int | None:
        """The row with this key, by bisection of the keys' order, which is sorted on the first call."""
        if self._key_order is None:
            self._key_order = self._sorted_keys()
        wanted = key.encode("utf-8", "surrogatepass")
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._key(int(self._key_order[middle])) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self) or self._key(int(self._key_order[low])) != wanted:
            return None
        return int(self._key_order[low])

    def _key(self, row: int) -> bytes:
        start = self._key_ends[row - 1] if row else 0
        return bytes(self._key_bytes[start : self._key_ends[row]])

    def _sorted_keys(self) -> NDArray[np.int64]:
        ends = np.concatenate(([0], self._arrays["key_ends"]))
        keys = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(self), [None, pa.py_buffer(ends), pa.py_buffer(self._arrays["key_bytes"])]
        )
        order: NDArray[np.int64] = pc.sort_indices(keys).to_numpy().astype(np.int64)
        return order

    def __getstate__(self) -> dict[str, Any]:
        if self._folder is not None:  # each process maps the same pages
            return {"folder": self._folder}
        return {"arrays": dict(self._arrays)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder = state.get("folder")
        self.__init__(_map(folder) if folder is not None else state["arrays"], folder)  # type: ignore[misc]


def default_cache() -> Path:
    """Where decoded indexes are kept: ``$MIMICIT_CACHE``, else ``mimicit`` in the user's cache folder."""
    own = os.environ.get("MIMICIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimicit"


def decode_index(path: Path, shards: Sequence[Mapping[str, Any]]) -> IndexColumns:
    """The columns of the index file ``path`` in memory; ``shards`` are the manifest's.

    `CorruptShardError` if it is unreadable, or gives a place that is not inside its shard.
    """
    parts = list(_batches(path, shards))
    return IndexColumns({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def map_index(path: Path, shards: Sequence[Mapping[str, Any]], cache: Path, digest: str) -> IndexColumns:
    """The columns mapped from ``cache``, decoded into it first if they are not there; errors as `decode_index`.

    ``digest`` is the SHA-256 of the index. `OSError` if the folder ``cache`` cannot be written.
    """
    folder = cache / "index" / digest
    if not folder.is_dir():
        _decode_to(folder, path, shards)
    return IndexColumns(_map(folder), folder)


def _decode_to(folder: Path, path: Path, shards: Sequence[Mapping[str, Any]]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".decoding-", ignore_cleanup_errors=True) as scratch:
        work = Path(scratch) / "columns"
        work.mkdir()
        for part in _batches(path, shards):
            for name, array in part.items():
                with open(work / name, "ab") as file:
                    file.write(array.data)
        for file_path in work.iterdir():
            with open(file_path, "rb+") as file:
                os.fsync(file.fileno())
        try:
            work.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster; both hold the same
                raise
    sync_folder(folder.parent)


def _map(folder: Path) -> Arrays:
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype in _DTYPES.items():
        path = folder / name
        if not path.exists():
            continue  # the JSON of foreign shards
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size:  # an empty file cannot be mapped
                arrays[name] = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), dtype)
            else:
                arrays[name] = np.empty(0, dtype)
    return arrays


def _batches(path: Path, shards: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    """The arrays of `_BATCH_ROWS` rows at a time, after arrays of no rows, so that there is at least one batch."""
    try:
        with open_regular(path) as source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            missing = [name for name in _NEEDED if name not in names]
            if missing:
                raise CorruptShardError(f"{path}: column {', '.join(missing)} is missing; build the folder again")
            columns = [*_NEEDED, JSON_COLUMN] if JSON_COLUMN in names else list(_NEEDED)
            yield _arrays(path, pa.RecordBatch.from_pylist([], file.schema_arrow).select(columns), shards, {})
            ends = {"member_ends": 0, "key_ends": 0, "json_ends": 0}
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                arrays = _arrays(path, batch.select(columns), shards, ends)
                for name in ends.keys() & arrays.keys():
                    ends[name] = int(arrays[name][-1])
                yield arrays
    except MemoryError:  # Arrow's is one too; it says nothing about the file
        raise
    except (pa.ArrowException, OSError) as error:
        raise CorruptShardError(f"{path}: unreadable ({error}); build the folder again") from None


def _arrays(
    path: Path, batch: pa.RecordBatch, shards: Sequence[Mapping[str, Any]], ends: Mapping[str, int]
) -> dict[str, NDArray[Any]]:
    for name in batch.schema.names:
        if batch.column(name).null_count:
            raise CorruptShardError(f"{path}: column {name} has empty cells; build the folder again")
    numbers = pc.index_in(batch.column("shard"), pa.array([shard["name"] for shard in shards], pa.string()))
    if numbers.null_count:
        row = pc.index(numbers.is_null(), True).as_py()
        raise CorruptShardError(
            f"{path}: names {batch.column('shard')[row].as_py()!r}, which is no shard of the manifest"
        )
    counts = _lengths(batch.column("member_offsets"))
    arrays: dict[str, NDArray[Any]] = {
        "shards": numbers.to_numpy(zero_copy_only=False).astype(np.int32),
        "member_ends": ends.get("member_ends", 0) + np.cumsum(counts),
        "member_offsets": batch.column("member_offsets").flatten().cast(pa.int64()).to_numpy(zero_copy_only=False),
        "member_sizes": batch.column("member_sizes").flatten().cast(pa.int64()).to_numpy(zero_copy_only=False),
    }
    _check_places(path, batch, counts, arrays, shards)
    for name, column in (("key", "key"), ("json", JSON_COLUMN)):
        if column in batch.schema.names:
            lengths, data = _text(batch.column(column))
            arrays[f"{name}_ends"] = ends.get(f"{name}_ends", 0) + np.cumsum(lengths)
            arrays[f"{name}_bytes"] = data
    return arrays


def _check_places(
    path: Path,
    batch: pa.RecordBatch,
    counts: NDArray[np.int64],
    arrays: Mapping[str, NDArray[Any]],
    shards: Sequence[Mapping[str, Any]],
) -> None:
    """Check that members lie in their shard, and that a row has as many sizes as offsets (at least one if no JSON)."""
    fault = counts != _lengths(batch.column("member_sizes"))
    if JSON_COLUMN not in batch.schema.names:
        fault |= counts == 0
    if not fault.any():
        limits = np.array([shard["bytes"] for shard in shards], np.int64)[arrays["shards"]]
        offsets, sizes = arrays["member_offsets"], arrays["member_sizes"]
        room = np.repeat(limits, counts)
        outside = (offsets < 0) | (sizes < 0) | (sizes > room) | (offsets > room - np.minimum(sizes, room))
        fault[np.repeat(np.arange(len(counts)), counts)[outside]] = True
    if fault.any():
        row = int(np.flatnonzero(fault)[0])
        key, shard = batch.column("key")[row].as_py(), batch.column("shard")[row].as_py()
        raise CorruptShardError(f"{path}: the members of {key!r} do not lie inside {shard}; build the folder again")


def _lengths(column: pa.Array) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _text(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The length of each cell in bytes, and all bytes one after the other."""
    large = column.cast(pa.large_binary())
    ends = np.frombuffer(large.buffers()[1], np.int64, len(large) + 1, large.offset * 8)
    data = large.buffers()[2]
    flat = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return np.diff(ends), flat[ends[0] : ends[-1]]
