"""From shard bytes back to `Sample`s: in order through a whole tar, or one sample at a time by its place."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from mimicit.errors import CorruptShardError, SchemaError
from mimicit.records import Sample, sample_from_json
from mimicit.schema import validate
from mimicit.shards.index import JSON_COLUMN
from mimicit.shards.tar import END_OF_ARCHIVE

__all__ = ["StoredSample", "decode_sample", "iterate_indexed", "iterate_shard", "parse_sample_json"]


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
            places: dict[str, _Member] = {}  # of the files, which later members may link to
            group: list[_Member] = []
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                member = _member(info, places, path)
                if group and member.key != group[0].key:
                    yield _stored(path, archive, group)
                    group = []
                group.append(member)
            if group:
                yield _stored(path, archive, group)
            _check_end(path, archive)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorruptShardError(f"{path}: not a whole tar file ({error})") from None


def iterate_indexed(path: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[StoredSample]:
    """The samples of a tar that others made, by its ``rows`` of an index that holds their JSON; errors as above."""
    try:
        with open(path, "rb") as file:
            for row in rows:
                where = f"{path}: sample {row['key']}"
                payloads = [bytes(row[JSON_COLUMN])]
                for offset, size in zip(row["member_offsets"], row["member_sizes"], strict=True):
                    file.seek(offset)
                    payloads.append(file.read(size))
                    if len(payloads[-1]) != size:
                        raise CorruptShardError(f"{where}: the shard ends inside it")
                yield StoredSample(
                    key=row["key"],
                    sample=decode_sample(payloads, where),
                    offset=row["offset"],
                    size=row["size"],
                    member_offsets=tuple(row["member_offsets"]),
                    member_sizes=tuple(row["member_sizes"]),
                )
    except (OSError, ValueError) as error:
        raise CorruptShardError(f"{path}: cannot be read as its index says ({error})") from None


class _Member(NamedTuple):
    """A member: where its header stands and the next one follows, and where its payload lies, maybe that of another."""

    name: str
    header: int
    end: int
    offset: int
    size: int

    @property
    def key(self) -> str:
        return self.name.partition(".")[0]


def _member(info: tarfile.TarInfo, places: dict[str, _Member], path: Path) -> _Member:
    if info.islnk():
        target = places.get(info.linkname)
        if target is None:
            raise CorruptShardError(f"{path}: member {info.name!r} links to {info.linkname!r}, which is not before it")
        return _Member(info.name, info.offset, info.offset_data, target.offset, target.size)
    if not info.isfile():
        raise CorruptShardError(f"{path}: member {info.name!r} is not a regular file")
    end = info.offset_data + info.size + (-info.size % tarfile.BLOCKSIZE)
    member = _Member(info.name, info.offset, end, info.offset_data, info.size)
    if not info.name.endswith(".json"):
        places[info.name] = member
    return member


def _stored(path: Path, archive: tarfile.TarFile, group: list[_Member]) -> StoredSample:
    first, last = group[0], group[-1]
    where = f"{path}: sample {first.key}"
    if first.name != f"{first.key}.json":
        raise CorruptShardError(f"{where}: starts with member {first.name!r}, not with {first.key}.json")
    sample = decode_sample([_payload(path, archive, member) for member in group], where)
    names = [f"{first.key}.{file}" for media in sample.media for file in media.files]
    if names != [member.name for member in group[1:]]:
        raise CorruptShardError(f"{where}: its members are not the files that its JSON names")
    return StoredSample(
        key=first.key,
        sample=sample,
        offset=first.header,
        size=last.end - first.header,
        member_offsets=tuple(member.offset for member in group),
        member_sizes=tuple(member.size for member in group),
    )


def _payload(path: Path, archive: tarfile.TarFile, member: _Member) -> bytes:
    file = archive.fileobj
    assert file is not None  # an open archive has one
    file.seek(member.offset)
    payload = file.read(member.size)
    if len(payload) != member.size:
        raise CorruptShardError(f"{path}: the shard ends inside member {member.name!r}")
    return bytes(payload)


def _check_end(path: Path, archive: tarfile.TarFile) -> None:
    """A tar that was cut between two members still looks whole to `tarfile`; the end mark tells."""
    with open(path, "rb") as file:
        file.seek(archive.offset)
        if file.read(len(END_OF_ARCHIVE)) != END_OF_ARCHIVE:
            raise CorruptShardError(f"{path}: no end-of-archive mark; the file was cut")
