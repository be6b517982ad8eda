"""``mimicit://``: a picture inside a shard as a file of `fsspec`, so that a table can name it instead of holding it.

``mimicit://local/data/shards/shard-000.tar/1536+20480/SHA256.jpg`` are 20,480 bytes from byte 1,536 of
``/data/shards/shard-000.tar``; a shard behind a URL is ``mimicit://remote/`` and its quoted URL. What is read is
compared with the checksum in the name, so a shard that was built anew is an error and never another picture. `fsspec`
finds this file system by the entry point in ``pyproject.toml``, also in processes that never import mimicit.
"""

from __future__ import annotations

import functools
import hashlib
import io
import threading
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final
from urllib.parse import quote, unquote

from fsspec.registry import register_implementation
from fsspec.spec import AbstractFileSystem

from mimicit.errors import ChangedShardError
from mimicit.loading.remote import RemoteFolder
from mimicit.loading.shard_files import OpenShards
from mimicit.shards.files import open_descriptor

__all__ = ["PROTOCOL", "PicturesInShards", "picture_url", "register"]

PROTOCOL: Final = "mimicit"
_LOCAL: Final = "local"
_REMOTE: Final = "remote"


def picture_url(shard: str, offset: int, size: int, name: str) -> str:
    """The URL of the file ``name`` (its SHA-256 and an extension): ``size`` bytes at ``offset`` of ``shard``.

    ``shard`` is an absolute path, or a URL, whose slashes are quoted: `datasets` tidies URLs as if they were paths.
    """
    place = f"{_REMOTE}/{quote(shard, safe='')}" if "://" in shard else f"{_LOCAL}{quote(shard)}"
    return f"{PROTOCOL}://{place}/{offset}+{size}/{name}"


class PicturesInShards(AbstractFileSystem):  # type: ignore[misc]
    """The file system of ``mimicit://``; read-only, and it lists nothing."""

    protocol = PROTOCOL

    def info(self, path: str, **options: Any) -> Mapping[str, Any]:
        """``name``, ``size`` and ``type``, by the URL alone; `FileNotFoundError` where it is none of ours."""
        return {"name": path, "size": _place(path)[2], "type": "file"}

    def _open(self, path: str, mode: str = "rb", *_: Any, **options: Any) -> BinaryIO:
        if mode != "rb":
            raise PermissionError(f"{path}: pictures in shards are only read")
        shard, offset, size, name = _place(path)
        data = _read(shard, offset, size)
        if hashlib.sha256(data).hexdigest() != PurePosixPath(name).stem:
            raise ChangedShardError(
                f"{shard}: byte {offset} is not the picture {name} any more; make the table again with to_datasets"
            )
        return io.BytesIO(data)


def register() -> None:
    """Tell `fsspec` of ``mimicit://`` in this process, and in those that it forks."""
    register_implementation(PROTOCOL, PicturesInShards, clobber=True)


def _place(path: str) -> tuple[str, int, int, str]:
    """(shard, offset, size, name) that a path of this file system means."""
    steps = path.removeprefix(f"{PROTOCOL}://").rsplit("/", 2)
    numbers = steps[1].split("+") if len(steps) == 3 else []
    where, _, quoted = steps[0].partition("/")
    if where not in (_LOCAL, _REMOTE) or len(numbers) != 2 or not all(n.isascii() and n.isdigit() for n in numbers):
        raise FileNotFoundError(f"{path}: no picture in a shard; to_datasets makes the URLs of such")
    shard = unquote(quoted)
    return shard if where == _REMOTE else f"/{shard}", int(numbers[0]), int(numbers[1]), steps[2]


def _read(shard: str, offset: int, size: int) -> bytes:
    if "://" not in shard:
        return _shards().read(shard, offset, size)
    folder, _, name = shard.rpartition("/")
    return _remote(folder).read(name, offset, size)


class _OpenTars:
    """Shards by their paths, as many of them open as `OpenShards` keeps."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._paths: list[str] = []
        self._lock = threading.Lock()
        self._open = OpenShards(lambda number: open_descriptor(self._paths[number]), self._paths)

    def read(self, path: str, offset: int, size: int) -> bytes:
        with self._lock:
            if path not in self._numbers:
                self._paths.append(path)
                self._numbers[path] = len(self._paths) - 1
        return self._open.read(self._numbers[path], offset, size)


@functools.cache
def _shards() -> _OpenTars:
    return _OpenTars()


@functools.cache
def _remote(folder: str) -> RemoteFolder:
    return RemoteFolder(folder)
