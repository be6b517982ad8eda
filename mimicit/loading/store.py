"""The samples of one folder by their row in the index: one `pread` and the parsing of its JSON each.

Opening reads four columns of the index. The object holds no position, so it can be shared and pickled into workers.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mimicit.errors import CorruptShardError, UsageError
from mimicit.records import Sample
from mimicit.shards.index import read_index
from mimicit.shards.manifest import read_manifest
from mimicit.shards.reader import decode_sample

__all__ = ["Store"]

_OPEN_SHARDS: Final = 32


class Store:
    """Random access to a finished folder of shards; rows count from 0 in the order of the shards."""

    def __init__(self, folder: Path) -> None:
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
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._rows_by_key: dict[str, int] | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shards' checksums: equal for equal content, wherever the folder lies."""
        text = "\n".join(shard["sha256"] for shard in self.manifest["shards"])
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._shards)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """These columns of the index, in the order of the rows; `CorruptShardError` where one is missing."""
        return read_index(self.folder, names)

    def key(self, row: int) -> str:
        """The WebDataset key of the sample at ``row``."""
        return str(self._keys[row])

    def row_of(self, key: str) -> int:
        """The row of the sample with this WebDataset key; `UsageError` where there is none."""
        if self._rows_by_key is None:
            self._rows_by_key = {name: row for row, name in enumerate(self._keys.to_pylist())}
        row = self._rows_by_key.get(key)
        if row is None:
            raise UsageError(f"{self.folder}: no sample has the key {key!r}")
        return row

    def read(self, row: int) -> Sample:
        """The sample at ``row``; `CorruptShardError` names shard and key."""
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
