"""A folder of shards as a sequence of `Sample`s with random access by position and by key.

Opening reads three columns of the index; a sample costs one `pread` of its members' span and the parsing of its JSON.
The object holds no position, so it can be shared, pickled into workers, and asked for any position in any order.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mimicit.errors import CorruptShardError, UsageError
from mimicit.loading.order import Order, Shuffle
from mimicit.records import Sample
from mimicit.shards.index import read_index
from mimicit.shards.manifest import read_manifest
from mimicit.shards.reader import decode_sample

__all__ = ["Samples", "load"]

_OPEN_SHARDS: Final = 32


def load(shards: str | Path, *, shuffle: Shuffle = None, seed: int = 0) -> Samples:
    """The samples of the finished folder ``shards``, in stored or in shuffled order.

    ``shuffle`` is ``None``, ``"full"`` (every order equally) or ``"window"`` (sequential reads; for large folders).
    The order depends on the folder, ``shuffle`` and ``seed`` alone. Raises `ShardError` and its kinds.
    """
    return Samples(Path(shards), shuffle=shuffle, seed=seed)


class Samples(Sequence[Sample]):
    """The samples of one folder; ``samples[position]`` for positions of the first epoch, `get` for any epoch."""

    def __init__(self, folder: Path, *, shuffle: Shuffle = None, seed: int = 0) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        index = read_index(folder, ["shard", "member_offsets", "member_sizes", "key"])
        names = [shard["name"] for shard in self.manifest["shards"]]
        self._paths = [folder / name for name in names]
        self._bytes = [shard["bytes"] for shard in self.manifest["shards"]]
        self._shards = pc.index_in(index.column("shard"), pa.array(names)).to_numpy().astype(np.int32)
        self._offsets = _Ragged(index.column("member_offsets"))
        self._sizes = _Ragged(index.column("member_sizes"))
        self._keys: pa.Array = index.column("key").combine_chunks()
        self.order = Order(length=len(self._shards), shuffle=shuffle, seed=seed)
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._rows_by_key: dict[str, int] | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shards' checksums: equal for equal content, wherever the folder lies."""
        text = "\n".join(shard["sha256"] for shard in self.manifest["shards"])
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return self.order.length

    @overload
    def __getitem__(self, position: int) -> Sample: ...
    @overload
    def __getitem__(self, position: slice) -> list[Sample]: ...
    def __getitem__(self, position: int | slice) -> Sample | list[Sample]:
        if isinstance(position, slice):
            return [self.get(place) for place in range(*position.indices(len(self)))]
        place = position + len(self) if position < 0 else position
        if not 0 <= place < len(self):
            raise IndexError(f"position {position} of {len(self)} samples")
        return self.get(place)

    def __iter__(self) -> Iterator[Sample]:
        for position in range(len(self)):
            yield self.get(position)

    def get(self, position: int) -> Sample:
        """The sample at ``position >= 0`` of an endless run: position p is place ``p % len`` of epoch ``p // len``."""
        return self.stored(int(self.order.at([position])[0]))

    def by_key(self, key: str) -> Sample:
        """The sample with this WebDataset key; `UsageError` where there is none."""
        if self._rows_by_key is None:
            self._rows_by_key = {name: row for row, name in enumerate(self._keys.to_pylist())}
        row = self._rows_by_key.get(key)
        if row is None:
            raise UsageError(f"{self.folder}: no sample has the key {key!r}")
        return self.stored(row)

    def stored(self, row: int) -> Sample:
        """The sample at ``row`` of the index, whatever the order; `CorruptShardError` names shard and key."""
        shard = int(self._shards[row])
        offsets, sizes = self._offsets[row], self._sizes[row]
        where = f"{self._paths[shard]}: sample {self._keys[row]}"
        start, stop = int(offsets.min()), int((offsets + sizes).max())
        span = os.pread(self._descriptor(shard), stop - start, start)
        if len(span) != stop - start:
            raise CorruptShardError(f"{where}: the shard ends inside it")
        places = offsets - start
        return decode_sample([span[a : a + n] for a, n in zip(places, sizes, strict=True)], where)

    def _descriptor(self, shard: int) -> int:
        if shard in self._descriptors:
            self._descriptors.move_to_end(shard)
            return self._descriptors[shard]
        path = self._paths[shard]
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CorruptShardError(f"{path}: {error.strerror}; the manifest lists this shard") from None
        if os.fstat(descriptor).st_size != self._bytes[shard]:
            os.close(descriptor)
            raise CorruptShardError(f"{path}: its size is not what the manifest says; run mimicit verify {self.folder}")
        if len(self._descriptors) >= _OPEN_SHARDS:
            os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors[shard] = descriptor
        return descriptor

    def close(self) -> None:
        """Close the shard files; they are opened again when needed."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": OrderedDict(), "_rows_by_key": None}  # files do not cross processes


class _Ragged:
    """A column of integer lists as two flat arrays: no Python object per row."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        self._starts: NDArray[np.int64] = array.offsets.to_numpy().astype(np.int64)
        self._values: NDArray[np.int64] = array.values.to_numpy()

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        return self._values[self._starts[row] : self._starts[row + 1]]
