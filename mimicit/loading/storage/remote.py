"""Folders of shards at a URL, read in exact ranges: byte for byte, or a named failure within a bounded time.

``http://`` and ``https://`` need nothing but the standard library; every other scheme goes through `fsspec` (extra
``remote``). A range that fails, stalls or comes back short is requested again, after waits that double; with the
defaults a dead server is reported after at most about a minute and a half per range, a missing file immediately.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from mimicit.errors import ChangedShardError, ShardError
from mimicit.loading.storage.ranges import HttpTransport, TransferError

T = TypeVar("T")

_CHUNK_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """``attempts`` in all, with waits of ``first_wait_s`` that double up to ``longest_wait_s`` between them.

    An attempt fails when nothing arrives for ``stall_s`` seconds, or when it takes longer than that plus one second
    for each ``slowest_rate`` bytes asked for. The waits are fixed, so a run can be repeated.
    """

    attempts: int = 6
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0
    stall_s: float = 15.0
    slowest_rate: int = 1 << 17

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after this many ``failures``."""
        return min(self.longest_wait_s, self.first_wait_s * 2.0 ** (failures - 1))

    def deadline_s(self, length: int) -> float:
        """Seconds in which ``length`` bytes must arrive."""
        return self.stall_s + length / self.slowest_rate


class Transport(Protocol):
    """Reads bytes of named files beneath one URL; `TransferError` if another attempt may help."""

    def size(self, name: str, deadline_s: float) -> int:
        """Bytes of the file ``name``; `ShardError` if there is none."""

    def read(self, name: str, start: int, length: int, deadline_s: float) -> bytes:
        """These bytes, fewer only at the end of the file; errors as `size`."""

    def close(self) -> None:
        """Close connections."""


class RemoteFolder:
    """The files beneath ``url``. Each process, and each thread, has connections of its own."""

    def __init__(self, url: str, retries: Retries | None = None) -> None:
        self.url = url
        self.retries = retries or Retries()
        self._local = threading.local()

    def size(self, name: str) -> int:
        """Bytes of the file ``name``; `ShardError` if there is none, or the server does not say."""
        deadline = self.retries.deadline_s(0)
        return self._retry(name, lambda: self._transport().size(name, deadline))

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly these bytes of the file ``name``; `ShardError` names it if they cannot be read."""
        if not length:
            return b""
        deadline = self.retries.deadline_s(length)

        def fetch() -> bytes:
            data = self._transport().read(name, start, length, deadline)
            if len(data) != length:
                raise TransferError(f"{len(data):,} bytes came where {length:,} were asked for, from byte {start}")
            return data

        return self._retry(name, fetch)

    def chunks(self, name: str, size: int) -> Iterator[bytes]:
        """The ``size`` bytes of a file, some megabytes at a time; each is retried by itself."""
        for start in range(0, size, _CHUNK_BYTES):
            yield self.read(name, start, min(_CHUNK_BYTES, size - start))

    def read_all(self, name: str, *, most: int) -> bytes:
        """The whole file ``name``; `ShardError` if it has more than ``most`` bytes."""
        size = self.size(name)
        if size > most:
            raise ShardError(f"{self.url}/{name}: {size:,} bytes, more than {most:,}")
        return b"".join(self.chunks(name, size))

    def close(self) -> None:
        """Close the connections of this thread."""
        transport = getattr(self._local, "transport", None)
        if transport is not None and self._local.process == os.getpid():
            transport.close()
        self._local = threading.local()

    def _transport(self) -> Transport:
        # A connection that a fork has copied would mix the answers of two processes.
        if getattr(self._local, "process", None) != os.getpid():
            self._local.transport = _transport(self.url, self.retries)
            self._local.process = os.getpid()
        transport: Transport = self._local.transport
        return transport

    def _retry(self, name: str, attempt: Callable[[], T]) -> T:
        for failures in range(1, self.retries.attempts + 1):
            try:
                return attempt()
            except TransferError as error:
                fault = str(error)
            if failures < self.retries.attempts:
                time.sleep(self.retries.wait_s(failures))
        raise ShardError(f"{self.url}/{name}: failed {self.retries.attempts} times, at last: {fault}")

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "retries": self.retries}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class RemoteShards:
    """A `ShardReader` that requests every range; each shard's size is checked before its first range."""

    gap_bytes = 1 << 19  # what a fast line carries in the time of one round trip

    def __init__(self, remote: RemoteFolder, shards: Sequence[dict[str, Any]]) -> None:
        self._remote = remote
        self._shards = [(shard["name"], shard["bytes"]) for shard in shards]
        self._checked: set[int] = set()

    def read(self, shard: int, start: int, length: int) -> bytes:
        """See `ShardReader`."""
        name, size = self._shards[shard]
        if shard not in self._checked:
            check_size(self._remote, name, size)
            self._checked.add(shard)
        return self._remote.read(name, start, length)

    def name(self, shard: int) -> str:
        """See `ShardReader`."""
        return f"{self._remote.url}/{self._shards[shard][0]}"

    def close(self) -> None:
        """See `ShardReader`."""
        self._remote.close()


def check_size(remote: RemoteFolder, name: str, size: int) -> None:
    """`ChangedShardError` if the remote file ``name`` does not have ``size`` bytes."""
    found = remote.size(name)
    if found != size:
        raise ChangedShardError(
            f"{remote.url}/{name}: its size is {found:,} bytes where the manifest says {size:,}; copy the folder again"
        )


def _transport(url: str, retries: Retries) -> Transport:
    if url.startswith(("http://", "https://")):
        return HttpTransport(url, retries.stall_s)
    from mimicit.loading.storage.ranges import FsspecTransport

    return FsspecTransport(url)
