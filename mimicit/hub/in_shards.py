"""``mimicit://``: a picture inside a shard as a file of `fsspec`, so that a table can name it instead of holding it.

``mimicit://local/data/shards/shard-000.tar/1536+20480/SHA256.jpg`` are 20,480 bytes from byte 1,536 of
``/data/shards/shard-000.tar``; a shard at a URL is ``mimicit://remote/`` and its quoted URL. What is read is
compared with the checksum in the name, so a shard that was rebuilt is an error and never another picture. `fsspec`
finds this file system by the entry point in ``pyproject.toml``, also in processes that never import mimicit.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final
from urllib.parse import quote, unquote

from fsspec.registry import register_implementation
from fsspec.spec import AbstractFileSystem

from mimicit.errors import ChangedShardError
from mimicit.hub.clips import named_clip
from mimicit.loading.storage.remote import RemoteFolder
from mimicit.loading.storage.shard_files import OpenShards
from mimicit.shards.files import open_descriptor

PROTOCOL: Final = "mimicit"
_LOCAL: Final = "local"
_REMOTE: Final = "remote"
_SPANS: Final = re.compile(r"[0-9]{1,15}\+[0-9]{1,15}(?:,[0-9]{1,15}\+[0-9]{1,15})*")


def in_shard_url(shard: str, spans: Sequence[tuple[int, int]], name: str) -> str:
    """The URL of the file ``name``: the bytes at ``spans`` (offset and size) of ``shard``.

    A picture has one span, and is named by its SHA-256 and an extension; a clip has a span for each frame, and is named
    by `clip_name`. ``shard`` is an absolute path, or a URL, whose slashes are quoted: `datasets` tidies URLs as if they
    were paths.
    """
    place = f"{_REMOTE}/{quote(shard, safe='')}" if "://" in shard else f"{_LOCAL}{quote(shard)}"
    return f"{PROTOCOL}://{place}/{','.join(f'{offset}+{size}' for offset, size in spans)}/{name}"


class PicturesInShards(AbstractFileSystem):  # type: ignore[misc]
    """The file system of ``mimicit://``; read-only, and it lists nothing."""

    protocol = PROTOCOL

    def info(self, path: str, **options: Any) -> Mapping[str, Any]:
        """``name``, ``size`` and ``type``; `FileNotFoundError` if the URL is not one of `in_shard_url`."""
        return {"name": path, "size": len(_content(path)), "type": "file"}

    def _open(self, path: str, mode: str = "rb", *_: Any, **options: Any) -> BinaryIO:
        if mode != "rb":
            raise PermissionError(f"{path}: what lies in shards is only read")
        return io.BytesIO(_content(path))


def _content(path: str) -> bytes:
    shard, spans, name = _place(path)
    parts = [_read(shard, offset, size) for offset, size in spans]
    if name.endswith(".mp4"):
        data = named_clip(name, parts)
    else:
        data = parts[0] if hashlib.sha256(parts[0]).hexdigest() == PurePosixPath(name).stem else None
    if data is None:
        raise ChangedShardError(
            f"{shard}: byte {spans[0][0]} is not the picture {name} any more; make the table again with to_datasets"
        )
    return data


def register() -> None:
    """Register ``mimicit://`` with `fsspec` in this process, and in those that it forks."""
    register_implementation(PROTOCOL, PicturesInShards, clobber=True)


def _place(path: str) -> tuple[str, list[tuple[int, int]], str]:
    """Parse a path of this file system into (shard, spans, name)."""
    steps = path.removeprefix(f"{PROTOCOL}://").rsplit("/", 2)
    where, _, quoted = steps[0].partition("/")
    if where not in (_LOCAL, _REMOTE) or len(steps) != 3 or not _SPANS.fullmatch(steps[1]):
        raise FileNotFoundError(f"{path}: nothing in a shard; to_datasets makes the URLs of such")
    spans = [(int(offset), int(size)) for offset, _, size in (span.partition("+") for span in steps[1].split(","))]
    shard = unquote(quoted)
    return shard if where == _REMOTE else f"/{shard}", spans, steps[2]


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
