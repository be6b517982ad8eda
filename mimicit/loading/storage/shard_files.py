"""Ranges of bytes of shards that are files, in a folder or in a cache of remote ones.

`LocalShards` and `OpenShards` call `os.pread` on descriptors that are opened when needed; the latest are kept. `pread`
has no position, so descriptors may be shared by threads and inherited by forked workers. A descriptor that is evicted
is closed when its last reader is done with it.

`ShardCache` is a folder that keeps whole remote shards, shared by processes and bounded in bytes. Everything lies in
``CACHE/mimicit-shards/`` under the shard's SHA-256: the shard, a lock that its one downloader holds, and a ledger
entry, whose time stamp says when the shard was last opened. A shard is downloaded under another name, compared with its
checksum, and renamed. A shard without a ledger entry was not put there by us and is never deleted.

The bound counts downloads under way. A shard that is evicted while another process has it open occupies disk space
until that process moves on; each process has at most `_OPEN_CACHED` open.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from mimicit.errors import ChangedShardError, CorruptShardError, ShardError, UsageError
from mimicit.loading.storage.remote import RemoteFolder, check_size
from mimicit.shards.files import open_descriptor
from mimicit.shards.folders import make_folder

_OPEN_SHARDS: Final = 32
_LARGEST_READ: Final = 1 << 30  # Linux reads at most 2 GiB in one call

_FOLDER: Final = "mimicit-shards"
_OPEN_CACHED: Final = 4
_POLL_S: Final = 0.05
_LONGEST_WAIT_S: Final = 3600.0


class ShardReader(Protocol):
    """Bytes of the shards of one folder, by number in the order of the manifest."""

    gap_bytes: int
    """Members with at most this gap between them are read in one go: skipping would cost more than reading."""

    def read(self, shard: int, start: int, length: int) -> bytes:
        """Exactly these bytes. `ChangedShardError` names a shard that does not match the manifest."""

    def name(self, shard: int) -> str:
        """The path or URL of a shard, for messages."""

    def close(self) -> None:
        """Close files and connections; they are opened again when needed."""


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
        # Every step on the dictionary is atomic; if two threads meet, one of them opens the shard once more.
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


class ShardCache:
    """At most ``most_bytes`` of shards in ``folder``; `UsageError` if the largest of ``shards`` does not fit."""

    def __init__(self, folder: Path, most_bytes: int, shards: Sequence[dict[str, Any]]) -> None:
        largest = max(shards, key=lambda shard: int(shard["bytes"]), default=None)
        if largest is not None and largest["bytes"] > most_bytes:
            raise UsageError(
                f"{folder}: a cache of {most_bytes:,} bytes cannot hold {largest['name']} of {largest['bytes']:,}; "
                "allow more, or read without cache_dir"
            )
        self.folder = folder / _FOLDER
        self.most_bytes = most_bytes
        try:
            make_folder(self.folder)
        except OSError as error:
            raise UsageError(f"{folder}: cannot hold a cache: {error.strerror}") from None

    def open(self, remote: RemoteFolder, shard: dict[str, Any]) -> int:
        """A descriptor of the whole ``shard``, which is downloaded if it is not in the cache."""
        path = self._path(shard["sha256"])
        while True:
            descriptor = _opened(path, shard["bytes"])
            if descriptor is not None:
                self._ledger(shard["sha256"]).touch()
                return descriptor
            with _locked(self._file(shard["sha256"], "lock")):
                if not path.exists():
                    self._download(remote, shard)

    def _download(self, remote: RemoteFolder, shard: dict[str, Any]) -> None:
        digest, size = shard["sha256"], shard["bytes"]
        check_size(remote, shard["name"], size)
        part = self._file(digest, "part")
        self._reserve(part, size)
        try:
            found = hashlib.sha256()
            with open(part, "rb+") as file:
                for chunk in remote.chunks(shard["name"], size):
                    found.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if found.hexdigest() != digest:
                raise ChangedShardError(
                    f"{remote.url}/{shard['name']}: its sha256 is not the manifest's; copy the folder again"
                )
            self._ledger(digest).touch()  # before the shard: a kill in between leaves no shard without an entry
            os.replace(part, self._path(digest))
        finally:
            part.unlink(missing_ok=True)

    def _reserve(self, part: Path, size: int) -> None:
        """Make ``part`` with its final size (as a hole), so that others count it; evict shards to make room."""
        end_s = time.monotonic() + _LONGEST_WAIT_S
        while True:
            with _locked(self.folder / "lock"):
                self._remove_abandoned(part)
                if self._make_room(size):
                    with open(part, "wb") as file:
                        file.truncate(size)
                    return
            if time.monotonic() > end_s:
                raise ShardError(f"{self.folder}: other processes have been downloading for an hour; is one stopped?")
            time.sleep(_POLL_S)  # others download; what they finish can be evicted

    def _make_room(self, size: int) -> bool:
        kept = []
        used = sum(part.stat().st_size for part in self.folder.glob("*.part"))
        for ledger in self.folder.glob("*.used"):
            path = ledger.with_suffix(".tar")
            try:
                kept.append((ledger.stat().st_mtime_ns, path, path.stat().st_size))
            except FileNotFoundError:
                continue  # its shard is still being downloaded
        used += sum(bytes for _, _, bytes in kept)
        for _, path, bytes in sorted(kept):
            if used + size <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            path.with_suffix(".used").unlink(missing_ok=True)
            used -= bytes
        return used + size <= self.most_bytes

    def _remove_abandoned(self, mine: Path) -> None:
        """Delete parts whose downloader is gone: no process holds their lock."""
        for part in self.folder.glob("*.part"):
            if part == mine:
                part.unlink()
                continue
            with open(part.with_suffix(".lock"), "ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                part.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._file(digest, "tar")

    def _ledger(self, digest: str) -> Path:
        return self._file(digest, "used")

    def _file(self, digest: str, kind: str) -> Path:
        return self.folder / f"{digest}.{kind}"


class CachedShards(OpenShards):
    """A `ShardReader` over the shards of ``remote`` in ``cache``."""

    def __init__(self, remote: RemoteFolder, shards: Sequence[dict[str, Any]], cache: ShardCache) -> None:
        self._remote = remote
        self._shards = shards
        self._cache = cache
        names = [f"{remote.url}/{shard['name']}" for shard in shards]
        super().__init__(self._fetch, names, _OPEN_CACHED)

    def _fetch(self, shard: int) -> int:
        try:
            return self._cache.open(self._remote, self._shards[shard])
        except OSError as error:
            raise ShardError(f"{self._cache.folder}: {error.strerror}; the cache cannot be used") from None

    def close(self) -> None:
        """See `ShardReader`."""
        super().close()
        self._remote.close()


class _Descriptor:
    """A file descriptor that is closed with its last reference."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


def _opened(path: Path, size: int) -> int | None:
    """A descriptor of the shard at ``path``, None if it is not there; `ChangedShardError` if it was cut since."""
    try:
        descriptor = open_descriptor(path)
    except FileNotFoundError:
        return None
    if os.fstat(descriptor).st_size == size:
        return descriptor
    os.close(descriptor)
    raise ChangedShardError(f"{path}: is not as it was downloaded; delete it")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; `ShardError` if another process holds it for too long."""
    with open(path, "ab") as file:
        end_s = time.monotonic() + _LONGEST_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end_s:
                    raise ShardError(f"{path}: locked for an hour; is another process stopped?") from None
                time.sleep(_POLL_S)
        yield
