"""Verify shards: every checksum, member, reference and schema; findings are collected, not raised."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from mimicit.errors import CorruptShardError, ShardError
from mimicit.prompt import IMAGE, SPECIAL_TOKENS, render
from mimicit.records import Sample
from mimicit.shards.files import sha256_of
from mimicit.shards.index import INDEX_NAME, iterate_index, sample_costs
from mimicit.shards.manifest import read_manifest
from mimicit.shards.reader import StoredSample, iterate_indexed, iterate_shard

__all__ = ["Finding", "sample_findings", "verify_folder", "verify_shard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault: the file, the sample's key (or ""), and what is wrong in words."""

    file: str
    key: str
    fault: str


def verify_folder(folder: Path) -> Iterator[Finding]:
    """All findings of a finished folder; a sound folder has none. Holds one sample and one index row at a time.

    Raises `ShardError` where ``folder`` is no shard folder and `UnfinishedError` where its build was interrupted.
    """
    manifest = read_manifest(folder)
    for name, checksum in manifest["files"].items():
        yield from _check_file(folder, name, checksum)
    names = [shard["name"] for shard in manifest["shards"]]
    for path in sorted(folder.glob("*.tar")):
        if path.name not in names:
            yield Finding(file=path.name, key="", fault="is not in the manifest; remove it or build the folder again")
    try:
        grouped = groupby(iterate_index(folder), key=lambda row: row["shard"])
        by_shard = next(grouped, None)
        for shard in manifest["shards"]:
            rows: Iterator[dict[str, Any]] = iter(())
            if by_shard is not None and by_shard[0] == shard["name"]:
                rows = by_shard[1]
            yield from _check_shard(folder, shard, rows, is_foreign=manifest["layout"] == "foreign")
            if by_shard is not None and by_shard[0] == shard["name"]:
                by_shard = next(grouped, None)
        if by_shard is not None:
            yield Finding(file=INDEX_NAME, key="", fault=f"names {by_shard[0]!r} where the manifest has no such shard")
    except ShardError as error:
        yield Finding(file=INDEX_NAME, key="", fault=str(error))


def _check_shard(
    folder: Path, shard: dict[str, Any], rows: Iterator[dict[str, Any]], *, is_foreign: bool
) -> Iterator[Finding]:
    name = shard["name"]
    found = list(_check_file(folder, name, shard["sha256"]))
    yield from found
    if found:
        return  # its samples cannot be trusted; one finding says so
    if is_foreign:
        yield from _check_foreign(folder / name, shard["samples"], rows)
        return
    count = 0
    for stored in _stored(folder / name):
        if isinstance(stored, Finding):
            yield stored
            continue
        count += 1
        yield from _against_index(name, stored, next(rows, None))
        yield from sample_findings(stored.sample, name, stored.key)
    for row in rows:
        yield Finding(file=INDEX_NAME, key=row["key"], fault=f"is listed in {name}, which does not hold it")
    if count != shard["samples"]:
        yield Finding(file=name, key="", fault=f"holds {count} samples; the manifest says {shard['samples']}")


def _check_foreign(path: Path, samples: int, rows: Iterator[dict[str, Any]]) -> Iterator[Finding]:
    """Of a tar that others made: the pictures lie where the index says, and are those of the JSON beside it."""
    count = 0
    try:
        for stored in iterate_indexed(path, rows):
            count += 1
            yield from _content_findings(stored.sample, path.name, stored.key)
    except CorruptShardError as error:
        yield Finding(file=path.name, key="", fault=str(error).removeprefix(f"{path}: "))
        return
    if count != samples:
        yield Finding(
            file=INDEX_NAME, key="", fault=f"lists {count} samples of {path.name}; the manifest says {samples}"
        )


def verify_shard(path: Path) -> Iterator[Finding]:
    """All findings of one shard file by itself."""
    for stored in _stored(path):
        if isinstance(stored, Finding):
            yield stored
        else:
            yield from sample_findings(stored.sample, path.name, stored.key)


def sample_findings(sample: Sample, file: str, key: str) -> Iterator[Finding]:
    """What is wrong inside one sample: key, checksums, order of media, roles, special tokens."""
    if key != sample.key:
        yield Finding(file=file, key=key, fault=f"its key should be {sample.key!r}, by source and id")
    yield from _content_findings(sample, file, key)


def _content_findings(sample: Sample, file: str, key: str) -> Iterator[Finding]:
    def finding(fault: str) -> Finding:
        return Finding(file=file, key=key, fault=fault)

    if [triplet.role for triplet in sample.triplets] != ["context"] * len(sample.context) + ["query"]:
        yield finding("the query must be the last triplet, and the only one")
    used = [index for triplet in sample.triplets for index in triplet.media]
    if used != list(range(len(sample.media))):
        yield finding(f"its triplets show media {used}; each of the {len(sample.media)} media once, in order, is right")
    for number, media in enumerate(sample.media):
        if media.timestamps_s is not None and len(media.timestamps_s) != len(media.files):
            yield finding(f"media[{number}] has {len(media.files)} frames and {len(media.timestamps_s)} timestamps")
        for name, data, checksum in zip(media.files, media.data, media.sha256, strict=False):
            if hashlib.sha256(data).hexdigest() != checksum:
                yield finding(f"the bytes of {name} do not match their sha256")
        if len(media.files) != len(media.sha256):
            yield finding(f"media[{number}] has {len(media.files)} files and {len(media.sha256)} checksums")
    for number, triplet in enumerate(sample.triplets):
        text = triplet.instruction + triplet.answer
        if any(token in text for token in SPECIAL_TOKENS):
            yield finding(f"triplets[{number}] has a special token in its text")
    if render(sample).count(IMAGE) != len(sample.media):
        yield finding(f"its prompt has {render(sample).count(IMAGE)} {IMAGE} tokens for {len(sample.media)} media")


def _stored(path: Path) -> Iterator[StoredSample | Finding]:
    try:
        yield from iterate_shard(path)
    except CorruptShardError as error:
        yield Finding(file=path.name, key="", fault=str(error).removeprefix(f"{path}: "))


def _check_file(folder: Path, name: str, checksum: str) -> Iterator[Finding]:
    try:
        if sha256_of(folder / name) != checksum:
            yield Finding(file=name, key="", fault="its sha256 is not the manifest's; the file was changed or damaged")
    except OSError as error:
        yield Finding(file=name, key="", fault=f"cannot be read: {error.strerror}")


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
