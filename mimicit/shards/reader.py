"""Read `Sample`s back from shards: all of a tar in order, or one sample at a time by its place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import orjson

from mimicit.errors import CorruptShardError, SchemaError
from mimicit.records import Sample, sample_from_json
from mimicit.schema import validate
from mimicit.shards.files import open_regular
from mimicit.shards.index import JSON_COLUMN
from mimicit.shards.tar import BLOCK, END_OF_ARCHIVE, Header, member_span, parse_header

MAX_SAMPLE_BYTES: Final = 512 << 20
"""The limit of a sample, all members together; hard links could make it many times as large as its shard."""

_MAX_JSON_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSample:
    """One sample of a shard with its key, its JSON and its place in the shard (bytes), as in the index."""

    key: str
    json: bytes
    sample: Sample
    offset: int
    size: int
    member_offsets: tuple[int, ...]
    member_sizes: tuple[int, ...]


def parse_sample_json(payload: bytes, where: str) -> dict[str, Any]:
    """The value of a ``{key}.json`` member; `CorruptShardError` names ``where`` if it breaks the schema."""
    if len(payload) > _MAX_JSON_BYTES:
        raise CorruptShardError(f"{where}: its JSON has {len(payload):,} bytes; the limit is {_MAX_JSON_BYTES:,}")
    try:
        value: dict[str, Any] = orjson.loads(payload)
        validate("sample", value)
    except (orjson.JSONDecodeError, SchemaError) as error:
        raise CorruptShardError(f"{where}: {error}") from None
    return value


def decode_sample(payloads: Sequence[bytes], where: str) -> Sample:
    """The `Sample` made of the payloads of its members: its JSON, then the files in media order."""
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
    """The samples of a shard file in order, without an index; checks the structure, not the checksums.

    `CorruptShardError` if the archive is damaged or cut, has bytes after its end mark, or its members are not samples
    of this format.
    """
    try:
        with open_regular(path) as file:
            places: dict[str, _Member] = {}  # of the files that later members may link to
            group: list[_Member] = []
            for member in _members(path, file, places):
                if group and member.key != group[0].key:
                    yield _stored(path, file, group)
                    group = []
                group.append(member)
            if group:
                yield _stored(path, file, group)
    except OSError as error:
        raise CorruptShardError(f"{path}: not a whole tar file ({error.strerror or error})") from None


def iterate_indexed(path: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[StoredSample]:
    """The samples of a tar that others made, by its ``rows`` of the index, which hold their JSON.

    `CorruptShardError` if the tar does not match them, or a sample's JSON breaks the schema.
    """
    try:
        with open_regular(path) as file:
            end = os.fstat(file.fileno()).st_size
            for row in rows:
                where = f"{path}: sample {row['key']}"
                _check_size(sum(row["member_sizes"]), where)
                payloads = [bytes(row[JSON_COLUMN])]
                for offset, size in zip(row["member_offsets"], row["member_sizes"], strict=True):
                    if not 0 <= offset <= offset + size <= end:
                        raise CorruptShardError(f"{where}: the shard ends inside it")
                    file.seek(offset)
                    payloads.append(file.read(size))
                yield StoredSample(
                    key=row["key"],
                    json=payloads[0],
                    sample=decode_sample(payloads, where),
                    offset=row["offset"],
                    size=row["size"],
                    member_offsets=tuple(row["member_offsets"]),
                    member_sizes=tuple(row["member_sizes"]),
                )
    except (OSError, ValueError) as error:
        raise CorruptShardError(f"{path}: cannot be read as its index says ({error})") from None


def _check_size(size: int, where: str) -> None:
    """`CorruptShardError` if the members of a sample have more bytes than it may have."""
    if size > MAX_SAMPLE_BYTES:
        raise CorruptShardError(f"{where}: has {size:,} bytes; the limit is {MAX_SAMPLE_BYTES:,}")


class _Member(NamedTuple):
    """A member: the bytes from its ``header`` to its ``end``, and its payload, which a link shares with its target."""

    name: str
    header: int
    end: int
    offset: int
    size: int

    @property
    def key(self) -> str:
        return self.name.partition(".")[0]


def _members(path: Path, file: BinaryIO, places: dict[str, _Member]) -> Iterator[_Member]:
    """The members one after the other, up to the end mark; an error if anything follows it."""
    end = os.fstat(file.fileno()).st_size
    position = 0
    names: set[str] = set()  # of one sample
    key = ""
    while True:
        file.seek(position)
        block = file.read(BLOCK)
        if len(block) == BLOCK and not any(block):
            break
        if len(block) < BLOCK:
            raise CorruptShardError(f"{path}: no end-of-archive mark; the file was cut, or is not a whole tar file")
        try:
            header = parse_header(block)
        except CorruptShardError as error:
            raise CorruptShardError(f"{path}: not a whole tar file (byte {position} {error})") from None
        member = _member(path, header, position, places)
        if member.end > end:
            raise CorruptShardError(f"{path}: the shard ends inside member {header.name!r}")
        if member.key != key:
            key, names = member.key, set()
        if header.name in names:
            raise CorruptShardError(f"{path}: member {header.name!r} comes twice")
        names.add(header.name)
        yield member
        position = member.end
    file.seek(position)
    if file.read(len(END_OF_ARCHIVE)) != END_OF_ARCHIVE:
        raise CorruptShardError(f"{path}: no end-of-archive mark; the file was cut")
    if (more := end - position - len(END_OF_ARCHIVE)) > 0:
        raise CorruptShardError(f"{path}: {more:,} bytes follow its end-of-archive mark")


def _member(path: Path, header: Header, position: int, places: dict[str, _Member]) -> _Member:
    start = position + BLOCK
    if header.target:
        target = places.get(header.target)
        if target is None:
            raise CorruptShardError(
                f"{path}: member {header.name!r} links to {header.target!r}, which is not before it"
            )
        return _Member(header.name, position, start, target.offset, target.size)
    member = _Member(header.name, position, position + member_span(header.size), start, header.size)
    if not header.name.endswith(".json"):
        places[header.name] = member
    return member


def _stored(path: Path, file: BinaryIO, group: list[_Member]) -> StoredSample:
    first, last = group[0], group[-1]
    where = f"{path}: sample {first.key}"
    if first.name != f"{first.key}.json":
        raise CorruptShardError(f"{where}: starts with member {first.name!r}, not with {first.key}.json")
    _check_size(sum(member.size for member in group), where)
    payloads = [_payload(file, member) for member in group]
    sample = decode_sample(payloads, where)
    names = [f"{first.key}.{name}" for media in sample.media for name in media.files]
    if names != [member.name for member in group[1:]]:
        raise CorruptShardError(f"{where}: its members are not the files that its JSON names")
    return StoredSample(
        key=first.key,
        json=payloads[0],
        sample=sample,
        offset=first.header,
        size=last.end - first.header,
        member_offsets=tuple(member.offset for member in group),
        member_sizes=tuple(member.size for member in group),
    )


def _payload(file: BinaryIO, member: _Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
