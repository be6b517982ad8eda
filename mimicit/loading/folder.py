"""A folder of shards, on disk or behind a URL: its manifest, its index, and a reader of its shards."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mimicit.errors import CorruptShardError, ShardError, UsageError
from mimicit.loading.cache import CachedShards, ShardCache
from mimicit.loading.index_columns import LARGE_ROWS, IndexColumns, decode_index, default_cache, map_index
from mimicit.loading.remote import RemoteFolder, RemoteShards
from mimicit.loading.shard_files import LocalShards, ShardReader
from mimicit.shards.files import publish, sha256_of
from mimicit.shards.index import INDEX_NAME
from mimicit.shards.manifest import MANIFEST_NAME, parse_manifest, read_manifest

__all__ = ["Folder", "open_folder"]

_MAX_MANIFEST_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """``location`` as given; ``index_path`` is the index on this machine, ``columns`` what of it reading needs."""

    location: str
    manifest: dict[str, Any]
    index_path: Path
    columns: IndexColumns
    shards: ShardReader


def open_folder(location: str | Path, *, cache_dir: Path | None, cache_bytes: int) -> Folder:
    """The finished folder at ``location``, a path or a URL; see `Store` for the cache.

    `ShardError` and its kinds where there is none, or its index is not the one of the manifest; `UsageError` where
    the cache cannot hold the largest shard.
    """
    text = str(location)
    if "://" in text and not text.startswith("file://"):
        return _open_remote(text.rstrip("/"), cache_dir, cache_bytes)
    if cache_dir is not None:
        raise UsageError(f"{text}: cache_dir is for shards behind a URL; this folder is on disk already")
    folder = Path(text.removeprefix("file://"))
    manifest = read_manifest(folder)
    columns = _columns(folder / INDEX_NAME, manifest, default_cache())
    return Folder(
        location=text,
        manifest=manifest,
        index_path=folder / INDEX_NAME,
        columns=columns,
        shards=LocalShards(folder, manifest["shards"]),
    )


def _open_remote(url: str, cache_dir: Path | None, cache_bytes: int) -> Folder:
    remote = RemoteFolder(url)
    manifest = parse_manifest(remote.read_all(MANIFEST_NAME, most=_MAX_MANIFEST_BYTES), f"{url}/{MANIFEST_NAME}")
    home = cache_dir or default_cache()
    # First of all, so that a cache that is too small costs no download.
    cache = ShardCache(cache_dir, cache_bytes, manifest["shards"]) if cache_dir is not None else None
    shards: ShardReader = RemoteShards(remote, manifest["shards"])
    if cache is not None:
        shards = CachedShards(remote, manifest["shards"], cache)
    index_path = _fetch_index(remote, manifest, home)
    return Folder(
        location=url,
        manifest=manifest,
        index_path=index_path,
        columns=_columns(index_path, manifest, home),
        shards=shards,
    )


def _columns(path: Path, manifest: dict[str, Any], cache: Path) -> IndexColumns:
    if not path.is_file():
        raise ShardError(f"{path}: no index; is {path.parent} a finished folder of shards?")
    shards = manifest["shards"]
    rows = sum(shard["samples"] for shard in shards)
    digest = manifest["files"].get(INDEX_NAME)
    if digest is None:
        raise CorruptShardError(f"{path}: the manifest has no checksum of it; build the folder again")
    is_large = rows >= LARGE_ROWS
    if not (is_large and (cache / "index" / digest).is_dir()) and sha256_of(path) != digest:
        raise CorruptShardError(f"{path}: its sha256 is not the manifest's; build the folder again")
    columns = None
    if is_large:
        try:
            columns = map_index(path, shards, cache, digest)
        except OSError:
            columns = None  # a home that cannot be written: the index is held in memory instead
    if columns is None:
        columns = decode_index(path, shards)
    if len(columns) != rows:
        raise CorruptShardError(f"{path}: {len(columns)} rows where the manifest says {rows} samples")
    return columns


def _fetch_index(remote: RemoteFolder, manifest: dict[str, Any], home: Path) -> Path:
    """A copy of the remote index on this machine, kept under its checksum."""
    digest = manifest["files"].get(INDEX_NAME)
    if digest is None:
        raise CorruptShardError(f"{remote.url}/{MANIFEST_NAME}: has no checksum of {INDEX_NAME}; build it again")
    path: Path = home / "remote-index" / digest / INDEX_NAME
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    with publish(path, temporary) as file:
        found = hashlib.sha256()
        for chunk in remote.chunks(INDEX_NAME, remote.size(INDEX_NAME)):
            found.update(chunk)
            file.write(chunk)
        if found.hexdigest() != digest:
            raise CorruptShardError(f"{remote.url}/{INDEX_NAME}: its sha256 is not the manifest's; copy it again")
    return path
