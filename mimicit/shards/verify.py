"""Verify shards: every checksum, member, reference and schema; findings are collected, not raised.

`mimicit.shards.soundness` defines what is sound. In addition, this compares every byte with the manifest and decodes
every picture, which takes most of the time: 0.3 ms for a JPEG of 336 x 300 pixels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, tee
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mimicit.errors import CorruptShardError, RejectedError, ShardError
from mimicit.media.bounds import memory_limit
from mimicit.media.image import check_stored
from mimicit.records import Sample
from mimicit.shards.files import open_regular, sha256_of
from mimicit.shards.index import INDEX_NAME, iterate_index, sample_costs
from mimicit.shards.manifest import MANIFEST_NAME, read_manifest
from mimicit.shards.reader import StoredSample, iterate_indexed, iterate_shard
from mimicit.shards.soundness import checksum_faults, index_faults, manifest_faults, sample_faults

_REJECTS_NAME: Final = "rejects.parquet"  # as mimicit.pipeline.stages.publish writes it
_REJECT_COLUMNS: Final = ["scope", "source", "reason"]
_UNUSED: Final = ("unused_file", "unused_media")
_MAX_TABLE_BYTES: Final = 384 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault: the file, the sample's key (or ""), and what is wrong in words."""

    file: str
    key: str
    fault: str


def verify_folder(folder: Path) -> Iterator[Finding]:
    """All findings of a finished folder; a sound folder has none. Holds one sample and some rows of tables at a time.

    Raises `ShardError` if ``folder`` is not a shard folder and `UnfinishedError` if its build was interrupted.
    """
    try:
        manifest = read_manifest(folder)
    except CorruptShardError as error:
        yield Finding(file=MANIFEST_NAME, key="", fault=_without(folder / MANIFEST_NAME, error))
        return
    for fault in manifest_faults(manifest):
        yield Finding(file=MANIFEST_NAME, key="", fault=fault)
    for name, checksum in manifest["files"].items():
        yield from _check_file(folder, name, checksum)
    yield from _check_rejects(folder, manifest)
    listed = {*manifest["files"], *(shard["name"] for shard in manifest["shards"])}
    for path in sorted([*folder.glob("*.tar"), *folder.glob("*.parquet")]):
        if path.name not in listed:
            yield Finding(file=path.name, key="", fault="is not in the manifest; remove it or build the folder again")
    rows: Iterator[dict[str, Any]] = iter(())
    has_rows = True
    try:
        for fault in index_faults(folder / INDEX_NAME, manifest):
            yield Finding(file=INDEX_NAME, key="", fault=fault)
        rows = iterate_index(folder)
    except ShardError as error:
        yield Finding(file=INDEX_NAME, key="", fault=_without(folder / INDEX_NAME, error))
        has_rows = False
    grouped = groupby(rows, key=lambda row: row["shard"])
    by_shard = next(grouped, None)
    for shard in manifest["shards"]:
        mine = by_shard is not None and by_shard[0] == shard["name"]
        yield from _check_shard(
            folder,
            shard,
            by_shard[1] if mine and by_shard is not None else iter(()),
            has_rows=has_rows,
            is_foreign=manifest["layout"] == "foreign",
        )
        if mine:
            by_shard = next(grouped, None)


def _check_shard(
    folder: Path, shard: dict[str, Any], rows: Iterator[dict[str, Any]], *, has_rows: bool, is_foreign: bool
) -> Iterator[Finding]:
    name = shard["name"]
    found = list(_check_file(folder, name, shard["sha256"], size=shard["bytes"]))
    yield from found
    if found:
        return  # its samples cannot be trusted; one finding says so
    count = 0
    content = hashlib.sha256()
    rows, places = tee(rows)  # a shard that others made is read by its rows of the index
    for stored in _stored(folder / name, places if is_foreign else None):
        if isinstance(stored, Finding):
            yield stored
            return  # the rest cannot be read, so neither count nor content can be compared
        count += 1
        content.update(hashlib.sha256(stored.json).digest())
        if not is_foreign:
            next(places, None)
        if has_rows:
            yield from _against_index(name, stored, next(rows, None))
        yield from sample_findings(stored.sample, name, None if is_foreign else stored.key, shown=stored.key)
    for row in rows:
        yield Finding(file=INDEX_NAME, key=row["key"], fault=f"is listed in {name}, which does not hold it")
    if count != shard["samples"]:
        yield Finding(file=name, key="", fault=f"holds {count} samples; the manifest says {shard['samples']}")
    elif content.hexdigest() != shard["content"]:
        yield Finding(file=MANIFEST_NAME, key="", fault=f"content of {name} is not that of its samples' JSON")


def verify_shard(path: Path) -> Iterator[Finding]:
    """All findings of one shard file by itself."""
    keys: set[str] = set()
    for stored in _stored(path, None):
        if isinstance(stored, Finding):
            yield stored
            continue
        if stored.key in keys:
            yield Finding(file=path.name, key=stored.key, fault="several samples have this key")
        keys.add(stored.key)
        yield from sample_findings(stored.sample, path.name, stored.key)


def sample_findings(sample: Sample, file: str, key: str | None, *, shown: str = "") -> Iterator[Finding]:
    """What is wrong inside one sample: key, order of media, roles, placeholders, checksums, pictures.

    ``key`` is the key it is stored under; if it is None, as in shards that others made, findings name ``shown``.
    """
    for fault in (*sample_faults(sample, key), *checksum_faults(sample), *_picture_faults(sample)):
        yield Finding(file=file, key=key or shown, fault=fault)


def _picture_faults(sample: Sample) -> Iterator[str]:
    for media in sample.media:
        for name, data in zip(media.files, media.data, strict=False):
            try:
                check_stored(data, name, media.width, media.height)
            except RejectedError as error:
                yield f"{name} is not the picture that the sample describes ({error})"


def _stored(path: Path, rows: Iterator[dict[str, Any]] | None) -> Iterator[StoredSample | Finding]:
    """The samples of a shard (by ``rows`` if others made it); a `Finding` ends them at the first unreadable one."""
    try:
        yield from iterate_shard(path) if rows is None else iterate_indexed(path, rows)
    except CorruptShardError as error:
        yield Finding(file=path.name, key="", fault=_without(path, error))


def _check_file(folder: Path, name: str, checksum: str, *, size: int | None = None) -> Iterator[Finding]:
    try:
        if size is not None:
            with open_regular(folder / name) as file:
                found = file.seek(0, 2)
            if found != size:
                yield Finding(file=name, key="", fault=f"has {found:,} bytes; the manifest says {size:,}")
                return
        if sha256_of(folder / name) != checksum:
            yield Finding(file=name, key="", fault="its sha256 is not the manifest's; the file was changed or damaged")
    except OSError as error:
        yield Finding(file=name, key="", fault=f"cannot be read: {error.strerror}")


def _check_rejects(folder: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    """Findings if the manifest's counts differ from the table of rejects."""
    if _REJECTS_NAME not in manifest["files"]:
        if manifest["totals"]["rejects"] or any(source["rejected"] for source in manifest["sources"]):
            yield Finding(file=MANIFEST_NAME, key="", fault=f"files: has no checksum of {_REJECTS_NAME}")
        return

    def finding(fault: str) -> Finding:
        return Finding(file=_REJECTS_NAME, key="", fault=fault)

    rejected: Counter[tuple[str, str]] = Counter()  # records, by source and reason
    reasons: Counter[str] = Counter()
    try:
        for batch in _reject_batches(folder / _REJECTS_NAME):
            counted = pa.Table.from_batches([batch]).group_by(_REJECT_COLUMNS).aggregate([([], "count_all")])
            for row in counted.to_pylist():
                reasons[row["reason"]] += row["count_all"]
                if row["scope"] == "record":
                    rejected[row["source"], row["reason"]] += row["count_all"]
    except (pa.ArrowException, OSError, MemoryError, ValueError, LookupError) as error:
        yield finding(f"unreadable ({error}); build the folder again")
        return
    count = reasons.total() - sum(reasons[reason] for reason in _UNUSED)
    totals = manifest["totals"]["rejects"]
    if manifest["layout"] == "foreign":
        count = reasons.total()
    if count != totals:
        yield finding(f"has {count:,} rejects; the manifest's totals say {totals:,}")
    for field, reason in zip(("unused", "unused_media"), _UNUSED, strict=True):
        says = manifest["input"].get(field)
        if says is not None and says != reasons[reason]:
            yield finding(f"has {reasons[reason]:,} rows of {reason}; the manifest's input says {says:,}")
    for source in manifest["sources"]:
        mine = {reason: count for (name, reason), count in rejected.items() if name == source["name"]}
        if mine != source["rejected"]:
            yield finding(f"has {mine or 'no'} rejected records of {source['name']!r}; the manifest says otherwise")
    for name in sorted({name for name, _ in rejected} - {source["name"] for source in manifest["sources"]} - {""}):
        yield finding(f"has rejected records of {name!r}, which is no source of the manifest")


def _reject_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with open_regular(path) as source, pq.ParquetFile(source) as file:
        for name in _REJECT_COLUMNS:
            if (found := file.schema_arrow.field(name).type) != pa.string():
                raise ValueError(f"column {name} is of type {found}")
        batches = file.iter_batches(batch_size=4096, columns=_REJECT_COLUMNS)
        while True:
            with memory_limit(_MAX_TABLE_BYTES):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def _against_index(shard: str, stored: StoredSample, row: dict[str, Any] | None) -> Iterator[Finding]:
    if row is None:
        yield Finding(file=INDEX_NAME, key=stored.key, fault=f"lacks this sample of {shard}")
        return
    truth: dict[str, object] = {
        "shard": shard,
        "key": stored.key,
        "id": stored.sample.id,
        "source": stored.sample.source,
        "offset": stored.offset,
        "size": stored.size,
        "member_offsets": list(stored.member_offsets),
        "member_sizes": list(stored.member_sizes),
        **sample_costs(stored.sample),
    }
    for name, value in truth.items():
        if row[name] != value:
            yield Finding(file=INDEX_NAME, key=stored.key, fault=f"{name} is {row[name]!r}; the shard has {value!r}")


def _without(path: Path, error: Exception) -> str:
    return str(error).removeprefix(f"{path}: ")
