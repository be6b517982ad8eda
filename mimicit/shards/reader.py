"""From shard bytes back to `Sample`s: in order through a whole tar, or one sample at a time by its place."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mimicit.errors import CorruptShardError, SchemaError
from mimicit.records import Sample, sample_from_json
from mimicit.schema import validate
from mimicit.shards.tar import END_OF_ARCHIVE

__all__ = ["StoredSample", "decode_sample", "iterate_shard", "parse_sample_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSample:
    """One sample of a shard with its key and its place there (bytes), as the index has them."""

    key: str
    sample: Sample
    offset: int
    size: int
    member_offsets: tuple[int, ...]
    member_sizes: tuple[int, ...]


def parse_sample_json(payload: bytes, where: str) -> dict[str, Any]:
    """The value of a ``{key}.json`` member; `CorruptShardError` names ``where`` if it breaks the schema."""
    try:
        value: dict[str, Any] = orjson.loads(payload)
        validate("sample", value)
    except (orjson.JSONDecodeError, SchemaError) as error:
        raise CorruptShardError(f"{where}: {error}") from None
    return value


def decode_sample(payloads: Sequence[bytes], where: str) -> Sample:
    """The `Sample` of the payloads of its members, JSON first and then the files in media order."""
    value = parse_sample_json(payloads[0], where)
    counts = [len(media["files"]) for media in value["media"]]
    if sum(counts) != len(payloads) - 1:
        raise CorruptShardError(f"{where}: {len(payloads) - 1} media files where the JSON names {sum(counts)}")
    data: list[tuple[bytes, ...]] = []
    start = 1
    for count in counts:
        data.append(tuple(payloads[start : start + count]))
        start += count
    return sample_from_json(value, data)


def iterate_shard(path: Path) -> Iterator[StoredSample]:
    """The samples of a shard file in order, without an index; a check of structure, not of checksums.

    `CorruptShardError` where the archive is damaged or cut, or its members are not samples of this format.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            group: list[tuple[tarfile.TarInfo, bytes]] = []
            for member in archive:
                key = member.name.partition(".")[0]
                if group and key != group[0][0].name.partition(".")[0]:
                    yield _stored(path, group)
                    group = []
                group.append((member, _payload(archive, member, path)))
            if group:
                yield _stored(path, group)
            _check_end(path, archive)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorruptShardError(f"{path}: not a whole tar file ({error})") from None


def _payload(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    file = archive.extractfile(member) if member.isfile() or member.islnk() else None
    payload = file.read() if file is not None else None
    if payload is None:
        raise CorruptShardError(f"{path}: member {member.name!r} is not a regular file")
    if member.isfile() and len(payload) != member.size:
        raise CorruptShardError(f"{path}: the shard ends inside member {member.name!r}")
    return payload


def _stored(path: Path, group: list[tuple[tarfile.TarInfo, bytes]]) -> StoredSample:
    first, last = group[0][0], group[-1][0]
    key = first.name.partition(".")[0]
    where = f"{path}: sample {key}"
    if first.name != f"{key}.json":
        raise CorruptShardError(f"{where}: starts with member {first.name!r}, not with {key}.json")
    sample = decode_sample([payload for _, payload in group], where)
    names = [f"{key}.{file}" for media in sample.media for file in media.files]
    if names != [member.name for member, _ in group[1:]]:
        raise CorruptShardError(f"{where}: its members are not the files that its JSON names")
    end = last.offset_data + (0 if last.islnk() else last.size + (-last.size % tarfile.BLOCKSIZE))
    return StoredSample(
        key=key,
        sample=sample,
        offset=first.offset,
        size=end - first.offset,
        member_offsets=tuple(member.offset_data for member, _ in group),
        member_sizes=tuple(len(payload) for _, payload in group),
    )


def _check_end(path: Path, archive: tarfile.TarFile) -> None:
    """A tar that was cut between two members still looks whole to `tarfile`; the end mark tells."""
    with open(path, "rb") as file:
        file.seek(archive.offset)
        if file.read(len(END_OF_ARCHIVE)) != END_OF_ARCHIVE:
            raise CorruptShardError(f"{path}: no end-of-archive mark; the file was cut")
