"""Folders of shards at a URL, read in exact ranges: byte for byte, or a named failure within a bounded time.

``http://`` and ``https://`` (HTTP/1.1, RFC 9110 section 14, over one connection) need nothing but the standard library;
every other scheme goes through `fsspec` (extra ``remote``), which knows S3, GCS, Azure, HDFS, SFTP and more. A range
that fails, stalls or comes back short is requested again, after waits that double; with the defaults a dead server is
reported after at most about a minute and a half per range, a missing file immediately.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from mimicit.errors import ChangedShardError, ShardError

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
    return FsspecTransport(url)


class FsspecTransport:
    """Reads files beneath ``url``; a `Transport`. Credentials and endpoints come from where fsspec takes them."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            extra = "hub" if url.startswith("hf://") else "remote"
            raise ShardError(f"{url}: needs fsspec; pip install 'mimicit[{extra}]'") from None
        try:
            # Instances are shared within a process by default, and one that a fork has copied does not work.
            self._system, self._root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            more = "; pip install 'mimicit[hub]'" if isinstance(error, ImportError) and url.startswith("hf://") else ""
            raise ShardError(f"{url}: {error}{more}") from None
        self._url = url

    def size(self, name: str, deadline_s: float) -> int:
        """See `Transport`."""

        def ask() -> int:
            self._system.invalidate_cache()  # listings are cached; a retry must not see the old one
            return int(self._system.info(f"{self._root}/{name}")["size"])

        return self._attempt(name, ask, deadline_s)

    def read(self, name: str, start: int, length: int, deadline_s: float) -> bytes:
        """See `Transport`."""
        path = f"{self._root}/{name}"
        return self._attempt(
            name, lambda: bytes(self._system.cat_file(path, start=start, end=start + length)), deadline_s
        )

    def close(self) -> None:
        """See `Transport`; fsspec closes its connections with the instance."""

    def _attempt(self, name: str, work: Callable[[], T], deadline_s: float) -> T:
        try:
            return _within(work, deadline_s)
        except FileNotFoundError:
            raise ShardError(f"{self._url}/{name}: no such file") from None
        except PermissionError as error:
            raise ShardError(f"{self._url}/{name}: access denied ({error})") from None
        except Exception as error:  # every back end has errors of its own; any of them may be temporary
            raise TransferError(f"{type(error).__name__}: {error}"[:300]) from error


def _within(work: Callable[[], T], seconds: float) -> T:
    """What ``work`` returns or raises; `TransferError` after ``seconds``. Not every back end has a time-out."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # carried to the waiting thread
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True, name="mimicit-transfer")
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TransferError(f"nothing came for {seconds:.0f} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    result: T = value
    return result


_MAX_REDIRECTS: Final = 5
_RECEIVE_BYTES: Final = 1 << 18
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_RETRIED: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))


class HttpTransport:
    """Reads files beneath ``url``; a `Transport`. ``stall_s`` is the longest silence of the server in seconds."""

    def __init__(self, url: str, stall_s: float) -> None:
        self._url = url
        self._stall_s = stall_s
        self._connection: http.client.HTTPConnection | None = None
        self._host = ("", "")

    def size(self, name: str, deadline_s: float) -> int:
        """See `Transport`."""
        return self._get(name, 0, 1, deadline_s)[1]

    def read(self, name: str, start: int, length: int, deadline_s: float) -> bytes:
        """See `Transport`."""
        return self._get(name, start, length, deadline_s)[0]

    def close(self) -> None:
        """See `Transport`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _get(self, name: str, start: int, length: int, deadline_s: float) -> tuple[bytes, int]:
        """The bytes that came, and the size of the whole file."""
        end_s = time.monotonic() + deadline_s
        try:
            response = self._respond(f"{self._url}/{quote(name)}", start, length)
            size = _whole_size(response, f"{self._url}/{name}", start)
            data = _receive(response, length, end_s)
        except (OSError, http.client.HTTPException, TransferError) as error:
            self.close()  # the rest of this answer must not be read as the next one
            raise TransferError(str(error) or type(error).__name__) from None
        except ShardError:
            self.close()
            raise
        if not response.isclosed():
            self.close()
        return data, size

    def _respond(self, url: str, start: int, length: int) -> http.client.HTTPResponse:
        for _ in range(_MAX_REDIRECTS + 1):
            connection, target = self._connect(url)
            headers = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            if response.status not in _REDIRECTS:
                return response
            target = response.headers.get("Location", "")
            self.close()
            url = urljoin(url, target)
        raise ShardError(f"{url}: more than {_MAX_REDIRECTS} redirects")

    def _connect(self, url: str) -> tuple[http.client.HTTPConnection, str]:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ShardError(f"{self._url}: leads to {url[:200]!r}, which is no HTTP address")
        host = (parts.scheme, parts.netloc)
        if self._connection is None or host != self._host:
            self.close()
            netloc = parts.netloc.rpartition("@")[2]
            if parts.scheme == "https":
                context = ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(netloc, timeout=self._stall_s, context=context)
            else:
                self._connection = http.client.HTTPConnection(netloc, timeout=self._stall_s)
            self._host = host
            self._connection.connect()
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._connection, f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"


def _whole_size(response: http.client.HTTPResponse, where: str, start: int) -> int:
    """The size of the file of which ``response`` holds the part at ``start``; errors as `Transport` if it does not."""
    status = response.status
    if status in _RETRIED:
        raise TransferError(f"the server answers {status} {response.reason}")
    if status == http.client.PARTIAL_CONTENT:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise TransferError("the server sent another range than the one asked for")
        return int(found[3])
    if status == http.client.OK and start == 0 and response.length is not None:
        return response.length  # the whole file, of which the beginning is read
    if status == http.client.OK:
        raise ShardError(f"{where}: the server does not serve byte ranges; copy the folder, or use one that does")
    if status == http.client.NOT_FOUND:
        raise ShardError(f"{where}: no such file (404)")
    raise ShardError(f"{where}: the server answers {status} {response.reason}")


def _receive(response: http.client.HTTPResponse, length: int, end_s: float) -> bytes:
    parts = []
    missing = length
    while missing:
        part = response.read1(min(missing, _RECEIVE_BYTES))
        if not part:
            break
        parts.append(part)
        missing -= len(part)
        if time.monotonic() > end_s:
            raise TransferError(f"too slow: {length - missing:,} of {length:,} bytes in time")
    return b"".join(parts)


class TransferError(Exception):
    """Bytes did not arrive, or too few, or too slowly; asking again may help. Never leaves `RemoteFolder`."""
