"""A folder of shards, on disk or at a URL: its manifest, its index, and a reader of its shards."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mimicit.errors import CorruptShardError, ShardError, UsageError
from mimicit.loading.storage.index_columns import LARGE_ROWS, IndexColumns, decode_index, default_cache, map_index
from mimicit.loading.storage.remote import RemoteFolder, RemoteShards
from mimicit.loading.storage.shard_files import CachedShards, LocalShards, ShardCache, ShardReader
from mimicit.schema import canonical_json
from mimicit.shards.files import publish, read_regular, sha256_of, write_atomically
from mimicit.shards.index import INDEX_NAME
from mimicit.shards.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, parse_manifest, read_manifest
from mimicit.shards.soundness import index_faults, manifest_faults, refuse

_CHECKED_NAME: Final = "checked"
"""A file next to the columns of a large index: a hash of the manifest by which they were found to be sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """``location`` as given; ``index_path`` is the index on this machine, ``columns`` the part that reading needs."""

    location: str
    manifest: dict[str, Any]
    index_path: Path
    columns: IndexColumns
    shards: ShardReader


def open_folder(location: str | Path, *, cache_dir: Path | None, cache_bytes: int) -> Folder:
    """The finished folder at ``location``, a path or a URL; see `Store` for the cache.

    `ShardError` and its subclasses if there is none, or its index does not match the manifest; `UsageError` if the
    cache cannot hold the largest shard.
    """
    text = str(location)
    if "://" in text and not text.startswith("file://"):
        return _open_remote(text.rstrip("/"), cache_dir, cache_bytes)
    if cache_dir is not None:
        raise UsageError(f"{text}: cache_dir is for shards behind a URL; this folder is on disk already")
    folder = Path(text.removeprefix("file://"))
    manifest = read_manifest(folder)
    refuse(manifest_faults(manifest), str(folder / MANIFEST_NAME))
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
    manifest = parse_manifest(remote.read_all(MANIFEST_NAME, most=MAX_MANIFEST_BYTES), f"{url}/{MANIFEST_NAME}")
    refuse(manifest_faults(manifest), f"{url}/{MANIFEST_NAME}")
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
    """The columns of the index at ``path`` that reading needs, checked against ``manifest``."""
    shards = manifest["shards"]
    digest = manifest["files"][INDEX_NAME]
    if sum(shard["samples"] for shard in shards) < LARGE_ROWS:
        _check_index(path, manifest, digest)
        return decode_index(path, shards)
    kept = cache / "index" / digest
    seen = hashlib.sha256(canonical_json([manifest[name] for name in ("shards", "totals", "sources")])).hexdigest()
    is_checked = kept.is_dir() and _read_note(kept / _CHECKED_NAME) == seen
    if not is_checked:
        _check_index(path, manifest, digest)
    try:
        columns = map_index(path, shards, cache, digest)
    except OSError:
        return decode_index(path, shards)  # the cache cannot be written: the index is held in memory instead
    if not is_checked:
        with suppress(OSError):  # another process writes the same, or nobody may: then it is checked again
            write_atomically(kept / _CHECKED_NAME, [seen.encode()])
    return columns


def _check_index(path: Path, manifest: dict[str, Any], digest: str) -> None:
    try:
        found = sha256_of(path)
    except FileNotFoundError:
        raise ShardError(f"{path}: no index; is {path.parent} a finished folder of shards?") from None
    except OSError as error:
        raise CorruptShardError(f"{path}: cannot be read: {error.strerror}") from None
    if found != digest:
        raise CorruptShardError(f"{path}: its sha256 is not the manifest's; build the folder again")
    refuse(index_faults(path, manifest), str(path))


def _read_note(path: Path) -> str:
    try:
        return read_regular(path).decode("ascii", "replace")
    except OSError:
        return ""


def _fetch_index(remote: RemoteFolder, manifest: dict[str, Any], home: Path) -> Path:
    """A copy of the remote index on this machine, kept under its checksum."""
    digest = manifest["files"][INDEX_NAME]
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
