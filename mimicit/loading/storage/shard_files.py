"""Ranges of bytes of shards that are files: `os.pread` on descriptors that are opened when needed, the latest kept.

`pread` has no position, so descriptors may be shared by threads and inherited by forked workers. One that is pushed
out is closed when its last reader is done with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from mimicit.errors import ChangedShardError, CorruptShardError
from mimicit.shards.files import open_descriptor

__all__ = ["LocalShards", "OpenShards", "ShardReader"]

_OPEN_SHARDS: Final = 32
_LARGEST_READ: Final = 1 << 30  # Linux reads 2 GiB at most at once


class ShardReader(Protocol):
    """Bytes of the shards of one folder, by number in the order of the manifest."""

    gap_bytes: int
    """Two members with no more than this between them are read at once: skipping would cost more than reading."""

    def read(self, shard: int, start: int, length: int) -> bytes:
        """Exactly these bytes. `ChangedShardError` names a shard that is not what the manifest says."""

    def name(self, shard: int) -> str:
        """The path or URL of a shard, for messages."""

    def close(self) -> None:
        """Let go of files and connections; they are opened again when needed."""


class _Descriptor:
    """A file descriptor that is closed with its last reference."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class OpenShards:
    """A `ShardReader` over descriptors that ``open_shard(number)`` gives, at most ``limit`` of them open."""

    gap_bytes = 1 << 16

    def __init__(self, open_shard: Callable[[int], int], names: Sequence[str], limit: int = _OPEN_SHARDS) -> None:
        self._open_shard = open_shard
        self._names = names
        self._limit = limit
        self._descriptors: dict[int, _Descriptor] = {}  # the latest last

    def read(self, shard: int, start: int, length: int) -> bytes:
        """See `ShardReader`."""
        descriptor = self._descriptor(shard)  # held here, it stays open whatever other threads do
        try:
            data = os.pread(descriptor.number, min(length, _LARGEST_READ), start)
            while len(data) < length:
                more = os.pread(descriptor.number, min(length - len(data), _LARGEST_READ), start + len(data))
                if not more:
                    raise ChangedShardError(f"{self._names[shard]}: does not reach byte {start + length}; it was cut")
                data += more
        except OSError as error:
            raise CorruptShardError(f"{self._names[shard]}: cannot be read: {error.strerror}") from None
        return data

    def name(self, shard: int) -> str:
        """See `ShardReader`."""
        return self._names[shard]

    def close(self) -> None:
        """See `ShardReader`."""
        self._descriptors.clear()

    def _descriptor(self, shard: int) -> _Descriptor:
        # Every step on the dictionary is atomic; where two threads meet, one of them opens the shard once more.
        descriptor = self._descriptors.pop(shard, None)
        if descriptor is None:
            descriptor = _Descriptor(self._open_shard(shard))
        self._descriptors[shard] = descriptor  # now the latest
        if len(self._descriptors) > self._limit:
            for oldest in list(self._descriptors)[: -self._limit]:
                self._descriptors.pop(oldest, None)
        return descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}  # open files do not cross processes


class LocalShards(OpenShards):
    """The shards of a folder on disk; each one's size is checked when it is opened."""

    def __init__(self, folder: Path, shards: Sequence[dict[str, Any]]) -> None:
        self._folder = folder
        self._sizes = [shard["bytes"] for shard in shards]
        super().__init__(self._open, [str(folder / shard["name"]) for shard in shards])

    def _open(self, shard: int) -> int:
        path = self._names[shard]
        try:
            descriptor = open_descriptor(path)
        except OSError as error:
            raise ChangedShardError(f"{path}: {error.strerror}; the manifest lists this shard") from None
        size = os.fstat(descriptor).st_size
        if size != self._sizes[shard]:
            os.close(descriptor)
            raise ChangedShardError(
                f"{path}: its size is {size:,} bytes where the manifest says {self._sizes[shard]:,}; "
                f"run mimicit verify {self._folder}"
            )
        return descriptor
