"""A folder of shards, on disk or at a URL, and its samples by their row in the index.

The `Store` holds no position, so it can be shared by threads, pickled into workers, and asked for any row in any order.
A sample is one ranged read and the parsing of its JSON. Its cost (33 kB in three members, warm cache): some ten
microseconds to read, as much to parse and check.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa

from mimicit.errors import CorruptShardError, ShardError, UsageError
from mimicit.loading.storage.index_columns import LARGE_ROWS, IndexColumns, decode_index, default_cache, map_index
from mimicit.loading.storage.remote import RemoteFolder, RemoteShards
from mimicit.loading.storage.shard_files import CachedShards, LocalShards, ShardCache, ShardReader
from mimicit.records import Sample, sample_from_json
from mimicit.schema import canonical_json
from mimicit.shards.files import publish, read_regular, sha256_of, write_atomically
from mimicit.shards.index import INDEX_NAME, read_index
from mimicit.shards.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, parse_manifest, read_manifest
from mimicit.shards.reader import decode_sample, parse_sample_json
from mimicit.shards.soundness import checksum_faults, index_faults, manifest_faults, refuse, sample_faults
from mimicit.shards.verify import verify_folder

_CHECKED_NAME: Final = "checked"
"""A file next to the columns of a large index: a hash of the manifest by which they were found to be sound."""

Check = Literal["size", "sha256", "verify"]
"""What is checked besides the manifest, the index, and each sample that is read.

``size``: the size of each shard. ``sha256``: also the SHA-256 of every picture that is read. ``verify``: before the
first sample, also all that `mimicit verify` looks at.
"""

_DEFAULT_CACHE_BYTES: Final = 64 << 30
_COUNTED: Final = 100


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


class Store:
    """Random access to a finished folder of shards; rows count from 0 in the order of the shards.

    ``location`` is a folder, or a URL of one (``https://``, ``s3://`` and whatever fsspec knows). The shards of a URL
    are read in ranges, or kept whole in ``cache_dir``, at most ``cache_bytes`` of them. With ``check="sha256"`` every
    picture is compared with its checksum; ``check="verify"`` raises `CorruptShardError` for what `mimicit verify` would
    report, and reads the whole folder for it, which must be on disk.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        cache_dir: str | Path | None = None,
        cache_bytes: int = _DEFAULT_CACHE_BYTES,
        check: Check = "size",
    ) -> None:
        if check not in ("size", "sha256", "verify"):
            raise UsageError(f"check={check!r}: choose 'size', 'sha256' or 'verify'")
        self.check = check
        if check == "verify":
            _verify(location)
        self._folder: Folder = open_folder(
            location, cache_dir=Path(cache_dir) if cache_dir is not None else None, cache_bytes=cache_bytes
        )
        self._columns = self._folder.columns
        self._shards = self._folder.shards

    @property
    def folder(self) -> Path:
        """Where the shards lie; for a URL, the folder with the copy of the index."""
        return self._folder.index_path.parent

    @property
    def location(self) -> str:
        """The folder or URL that was given."""
        return self._folder.location

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the folder."""
        return self._folder.manifest

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shards' checksums: equal for equal content, wherever the folder lies."""
        text = "\n".join(shard["sha256"] for shard in self.manifest["shards"])
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._columns)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """These columns of the index, in the order of the rows; `CorruptShardError` if one is missing."""
        return read_index(self._folder.index_path.parent, names)

    def key(self, row: int) -> str:
        """The WebDataset key of the sample at ``row``."""
        self._check_row(row)
        return self._columns.key(row)

    def shard_name(self, row: int) -> str:
        """The path or URL of the shard that holds the sample at ``row``."""
        self._check_row(row)
        return self._shards.name(self._columns.shard(row))

    def row_of(self, key: str) -> int:
        """The row of the sample with this WebDataset key; `UsageError` if there is none."""
        row = self._columns.row_of(key)
        if row is None:
            raise UsageError(f"{self.location}: no sample has the key {key!r}")
        return row

    def rows_of_shard(self, number: int) -> list[int]:
        """The rows of the samples of shard ``number``, which counts in the order of the manifest."""
        rows: list[int] = self._columns.rows(number).tolist()
        return rows

    def raw(self, row: int) -> list[bytes]:
        """The payloads of the members of the sample at ``row``: its JSON, then its files in media order."""
        self._check_row(row)
        columns = self._columns
        offsets, sizes = columns.members(row)
        payloads = read_members(self._shards, columns.shard(row), offsets, sizes)
        return [columns.json(row), *payloads] if columns.has_json else payloads

    def read(self, row: int) -> Sample:
        """The sample at ``row``; `CorruptShardError` names shard and key."""
        payloads = self.raw(row)
        where = f"{self.shard_name(row)}: sample {self._columns.key(row)}"
        sample = decode_sample(payloads, where)
        if not self._columns.has_json and sample.key != self._columns.key(row):
            raise CorruptShardError(f"{where}: what lies there is {sample.key}; the shard is not that of the index")
        refuse(sample_faults(sample), where)
        if self.check == "sha256":
            refuse(checksum_faults(sample), where)
        return sample

    def without_data(self, row: int) -> tuple[Sample, list[int], list[int]]:
        """The sample at ``row`` without the bytes of its media, and the offsets and sizes of its files in the shard."""
        self._check_row(row)
        columns, shard = self._columns, self._columns.shard(row)
        offsets, sizes = columns.members(row)
        where = f"{self._shards.name(shard)}: sample {columns.key(row)}"
        has_json = columns.has_json
        data = columns.json(row) if has_json else self._shards.read(shard, offsets.pop(0), sizes.pop(0))
        sample = sample_from_json(parse_sample_json(data, where))
        refuse(sample_faults(sample), where)
        if sum(len(media.files) for media in sample.media) != len(offsets):
            raise CorruptShardError(f"{where}: {len(offsets)} media files where the JSON names others")
        return sample, offsets, sizes

    def close(self) -> None:
        """Close files and connections; they are opened again when needed."""
        self._shards.close()

    def _check_row(self, row: int) -> None:
        if not 0 <= row < len(self._columns):
            raise IndexError(f"row {row} of {len(self._columns)} samples")


def read_members(shards: ShardReader, shard: int, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
    """The payloads at ``offsets`` of one shard, in that order; neighbours are read in one go.

    Members of one sample are neighbours, unless the shard holds a picture once for many samples (hard links).
    """
    if not offsets:
        return []
    start, stop = offsets[0], offsets[-1] + sizes[-1]
    if stop - start <= sum(sizes) + shards.gap_bytes and _ascends(offsets, sizes):
        span = shards.read(shard, start, stop - start)
        return [span[at - start : at - start + size] for at, size in zip(offsets, sizes, strict=True)]
    payloads = [b""] * len(offsets)
    for members in _neighbours(offsets, sizes, shards.gap_bytes):
        start = offsets[members[0]]
        span = shards.read(shard, start, max(offsets[m] + sizes[m] for m in members) - start)
        for m in members:
            payloads[m] = span[offsets[m] - start : offsets[m] - start + sizes[m]]
    return payloads


def _verify(location: str | Path) -> None:
    """`CorruptShardError` with the first finding of `mimicit verify`, and how many more there are."""
    text = str(location).removeprefix("file://")
    if "://" in text:
        raise UsageError(f"{location}: check='verify' reads whole shards; copy the folder, or choose 'sha256'")
    findings = list(islice(verify_folder(Path(text)), _COUNTED))
    if findings:
        first = findings[0]
        place = f"{text}/{first.file}: {f'sample {first.key}: ' if first.key else ''}"
        more = f"; {len(findings) - 1} more" if len(findings) < _COUNTED else f"; over {_COUNTED - 2} more"
        raise CorruptShardError(f"{place}{first.fault}{more if len(findings) > 1 else ''}; run mimicit verify {text}")


def _ascends(offsets: Sequence[int], sizes: Sequence[int]) -> bool:
    end = 0
    for offset, size in zip(offsets, sizes, strict=True):
        if offset < end:
            return False
        end = offset + size
    return True


def _neighbours(offsets: Sequence[int], sizes: Sequence[int], gap: int) -> list[list[int]]:
    """The members in groups that lie at most ``gap`` bytes apart, each group in the order of the offsets."""
    groups: list[list[int]] = []
    end = 0
    for member in sorted(range(len(offsets)), key=offsets.__getitem__):
        if groups and offsets[member] <= end + gap:
            groups[-1].append(member)
        else:
            groups.append([member])
        end = max(end, offsets[member] + sizes[member])
    return groups
