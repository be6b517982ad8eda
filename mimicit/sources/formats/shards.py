"""Shards of our own: a folder that a build has finished, or single shard files, to be built again with other options.

Every triplet of the samples is one record, however many samples hold it. It is read from the first sample that shows
it and, if it is a query, from its own sample. ``related`` are the ids of a query's context, nearest first, so
``--context related`` gives the same samples again. A triplet that is never a query is context only (``is_query``
false). A clip is its stored frames with their times and its duration; a document is a record with parts.

Each source of a finished folder is a source again, by the same name; its samples are found by the index, if there is
one. Shard files without a manifest are one source.

The index is not trusted, as no input is. It must list as many samples of each shard as the manifest says, so that none
is missed; what it says of a sample is checked when the sample is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO, Final

import orjson

from mimicit.errors import RejectedError, SchemaError, SourceError
from mimicit.records import Media, Sample, sample_from_json
from mimicit.schema import validate
from mimicit.sources.containers.disk_table import read_joined
from mimicit.sources.containers.json_rows import MAX_RECORD_BYTES, parsed
from mimicit.sources.containers.parquet import parquet_batches, parquet_columns, parquet_rows
from mimicit.sources.containers.table_process import value_apart
from mimicit.sources.containers.tar_members import TarMember, open_tar
from mimicit.sources.containers.tar_samples import TarSample, read_member, tar_samples
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Join, Needs, SourceFormat, SourceSpec
from mimicit.sources.formats.shard_triplets import check_shown, entries_of, records
from mimicit.sources.items import Entry, InTar, MediaRef, Piece, Reject
from mimicit.sources.records.pieces import grouped, joined_pieces, whole
from mimicit.sources.sniff import Fields, Head

_MANIFEST: Final = "manifest.json"
_INDEX: Final = "index.parquet"
_BESIDE: Final = (_MANIFEST, _INDEX, "media.parquet", "rejects.parquet", "README.md", "contact-sheet.jpg")
_MAX_MANIFEST_BYTES: Final = 256 << 20
_PIECE_SAMPLES: Final = 20_000
_ROWS_AT_ONCE: Final = 10_000
_COLUMNS: Final = ("shard", "key", "source", "member_offsets", "member_sizes")


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    folders: dict[str, list[str]] = {}
    for path, head in sorted(heads.items()):
        if head.kind == "tar" and (force or head.any(_fits)):
            folders.setdefault(folder_of(path), []).append(path)
    sources: list[SourceSpec] = []
    for folder, tars in folders.items():
        manifest = f"{folder}/{_MANIFEST}".lstrip("/")
        if manifest not in heads or not {"config", "format"} <= heads[manifest].fields.keys():
            name = folder or (tars[0].rpartition(".")[0] if len(tars) == 1 else "shards")
            sources.append(SourceSpec(name=name, format="shards", files=tuple(tars), why=f"{len(tars)} shard files"))
            continue
        beside = [path for name in _BESIDE if (path := f"{folder}/{name}".lstrip("/")) in heads]
        for part in _sources_in(root, manifest):
            name = f"{folder}/{part}".strip("/") or "shards"
            why = f"a folder of {len(tars)} shards; its source {part!r}"
            sources.append(SourceSpec(name=name, format="shards", files=(*tars, *beside), why=why, part=part))
    return sources


def _fits(fields: Fields) -> bool:
    return {"json.format", "json.media", "json.triplets"} <= fields.keys()


def _sources_in(root: Root, path: str) -> list[str]:
    """The sources that the samples of a finished folder came from; one empty name if its manifest is damaged."""
    try:
        return [source["name"] for source in _manifest(root, path)["sources"] if source["out"]] or [""]
    except SourceError:
        return [""]


def _manifest(root: Root, path: str) -> dict[str, Any]:
    try:
        with root.open_input(path) as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
        if len(data) > _MAX_MANIFEST_BYTES:
            raise SourceError(
                f"{path}: larger than {_MAX_MANIFEST_BYTES >> 20} MiB; remove it to read the shards as they are"
            )
        value: dict[str, Any] = orjson.loads(data)
        validate("manifest", value)
    except (orjson.JSONDecodeError, SchemaError) as error:
        raise SourceError(f"{path}: no manifest of shards: {error}; remove it to read the shards as they are") from None
    return value


def _entries(spec: SourceSpec, root: Root) -> Iterator[Entry | Reject]:
    manifest, index = (_beside(spec, name) for name in (_MANIFEST, _INDEX))
    if manifest is not None:
        _check_complete(spec, root, manifest)
    # The source of what cannot be read is unknown, so only the first source reports it.
    answers = manifest is None or _sources_in(root, manifest)[0] == spec.part
    if manifest is not None and index is not None:
        samples = indexed_samples(root, index, spec.part, _manifest(root, manifest), spec.piece)
        yield from _of_indexed(spec, root, samples)
        return
    for path in spec.paths:
        if path.rpartition("/")[2] not in _BESIDE:
            yield from _of_shard(spec, root, path, answers=answers)


def _split(spec: SourceSpec, root: Root) -> list[Piece]:
    manifest, index = (_beside(spec, name) for name in (_MANIFEST, _INDEX))
    if manifest is not None and index is not None:
        pieces = _index_pieces(root, index, _manifest(root, manifest))
    else:
        tars = [path for path in spec.files if path.rpartition("/")[2] not in _BESIDE]
        pieces = grouped(root, map(whole, tars))
    return joined_pieces(pieces, pieces)


_JOIN: Final = Join(entries=_entries, records=records)
SHARDS: Final = SourceFormat(
    claim=_claim,
    read=partial(read_joined, _JOIN),
    split=_split,
    join=_JOIN,
    of_media=True,  # the contact sheet
    needs=(Needs(("tar",), (("json.format",), ("json.media",), ("json.triplets",))),),
)


def _beside(spec: SourceSpec, name: str) -> str | None:
    return next((path for path in spec.files if path.rpartition("/")[2] == name), None)


def _of_indexed(spec: SourceSpec, root: Root, samples: Iterable[IndexedSample]) -> Iterator[Entry | Reject]:
    """The entries of the ``samples``, all of which belong to ``spec``, and a reject for each that cannot be read."""
    for sample in samples:
        place = f"{sample.path}#{sample.key}"
        try:
            value = _sample_in(root, sample.path, sample.json)
            names = [name for media in value.media for name in media.files]
            if (value.key, value.source, len(names)) != (sample.key, spec.part, len(sample.files)):
                raise RejectedError("schema", "the sample is another one than the index says; build the folder again")
            files = dict(zip(names, sample.files, strict=True))
            refs = [_ref(sample.path, sample.key, files, media) for media in value.media]
            yield from entries_of(value, refs, place, sample.key)
        except RejectedError as error:
            yield spec.reject(error.reason, place=place, id=sample.key, detail=error.detail)


def _of_shard(spec: SourceSpec, root: Root, path: str, *, answers: bool) -> Iterator[Entry | Reject]:
    """The entries of the samples of one shard that belong to ``spec``, and a reject for each that cannot be read.

    With ``answers``, this includes samples that are too damaged to tell their source.
    """
    for sample in tar_samples(root, path):
        if isinstance(sample, RejectedError):
            if answers:
                yield spec.reject(sample.reason, place=path, detail=sample.detail, scope="media")
            continue
        is_mine = answers
        place = sample.place(path)
        try:
            if sample.fault:
                raise RejectedError("duplicate_id", sample.fault)
            value = _parsed_sample(root, path, sample)
            is_mine = spec.part in ("", value.source)
            if is_mine:
                yield from entries_of(value, _refs(path, sample, value), place, sample.key)
        except RejectedError as error:
            if is_mine:
                yield spec.reject(error.reason, place=place, id=sample.key, detail=error.detail)


def _check_complete(spec: SourceSpec, root: Root, path: str) -> None:
    folder = folder_of(path)
    for shard in _manifest(root, path)["shards"]:
        if f"{folder}/{shard['name']}".lstrip("/") not in spec.files:
            raise SourceError(
                f"{path}: lists {shard['name']}, which is absent or no shard; fetch it, or remove the list"
            )


def _parsed_sample(root: Root, path: str, sample: TarSample) -> Sample:
    member = sample.file("json")
    if member is None:
        raise RejectedError("missing_sidecar", f"the sample {sample.key!r} has no {sample.key}.json")
    return _sample_in(root, path, member)


def _sample_in(root: Root, path: str, member: TarMember) -> Sample:
    with open_tar(root, path) as tar:
        value = parsed(read_member(tar, member, most=MAX_RECORD_BYTES))
    try:
        validate("sample", value)
    except SchemaError as error:
        raise RejectedError("schema", f"{member.name!r}: {error}") from None
    found = sample_from_json(value)
    check_shown(found, repr(member.name))
    return found


def _refs(path: str, sample: TarSample, value: Sample) -> list[MediaRef]:
    files = dict(sample.files)
    return [_ref(path, sample.key, files, media) for media in value.media]


def _ref(path: str, key: str, files: Mapping[str, Any], media: Media) -> MediaRef:
    absent = [name for name in media.files if name not in files]
    if absent:
        raise RejectedError("missing_file", f"the sample {key!r} has no {key}.{absent[0]}")
    if len(media.sha256) != len(media.files) or len(media.timestamps_s or media.files) != len(media.files):
        raise RejectedError(
            "schema", f"the sample {key!r}: a medium of {len(media.files)} files has other numbers of sums or times"
        )
    parts = tuple(InTar(path, files[name].offset, files[name].size) for name in media.files)
    return MediaRef(
        kind=media.kind,
        parts=parts,
        origin=media.origin,
        timestamps_s=media.timestamps_s,
        duration_s=media.duration_s,
    )


@dataclass(frozen=True, slots=True)
class IndexedSample:
    """One sample of the shard at ``path``: its JSON, and its other files in the order of its media."""

    path: str
    key: str
    json: TarMember
    files: tuple[TarMember, ...]


def indexed_samples(
    root: Root, path: str, source: str, manifest: Mapping[str, Any], piece: Piece | None = None
) -> Iterator[IndexedSample]:
    """The samples of ``source`` in the index at ``path``, or in a ``piece`` of it, in its order.

    `SourceError` if it is damaged, is not one of ours, or does not list what the ``manifest`` of its folder lists.
    """
    if not set(_COLUMNS) <= parquet_columns(root, path).keys():
        raise _fault(path, f"lacks one of the columns {', '.join(_COLUMNS)}")
    folder = folder_of(path)
    found: Counter[str] = Counter()
    known = {shard["name"]: shard["samples"] for shard in manifest["shards"]}
    for number, _, _, row in parquet_rows(root, path, _COLUMNS, piece):
        if isinstance(row, RejectedError):
            raise _fault(path, f"row {number} cannot be read: {row.detail}")
        if row["shard"] not in known:
            raise _fault(path, f"row {number} is of {row['shard']!a:.80}, which the manifest does not list")
        found[row["shard"]] += 1
        if row["source"] == source:
            yield _sample(row, f"{folder}/{row['shard']}".lstrip("/"), path, number)
    if piece is None or piece.end is None:  # else it was checked before the index was cut
        _check_counts(path, found, manifest)


def _check_counts(path: str, found: Mapping[str, int], manifest: Mapping[str, Any]) -> None:
    """`SourceError` if the index at ``path`` lists other numbers of samples than the ``manifest``."""
    for shard in manifest["shards"]:
        name, samples = shard["name"], shard["samples"]
        if (listed := found.get(name, 0)) != samples:
            raise _fault(path, f"lists {listed} samples of {name}, which has {samples}")


def _index_pieces(root: Root, path: str, manifest: Mapping[str, Any]) -> list[Piece]:
    """Runs of row groups of the index, each of `_PIECE_SAMPLES` or a few more; `SourceError` as `_check_counts`."""
    if parquet_columns(root, path).get("shard") != "string":
        return []  # reading will say what is wrong
    pieces: list[Piece] = []
    found: Counter[str] = Counter()
    first = 0
    for number, counts in enumerate(value_apart(root, path, _shards_by_group)):
        found.update(counts)
        if not pieces or first - pieces[-1].first >= _PIECE_SAMPLES:
            pieces.append(Piece(paths=(path,), start=number, first=first))
        pieces[-1] = replace(pieces[-1], end=number + 1)
        first += sum(counts.values())
    _check_counts(path, found, manifest)
    return pieces


def _shards_by_group(file: BinaryIO, path: str) -> list[dict[str, int]]:
    """How many rows each row group of an index has of each shard."""
    groups: list[Counter[str]] = []
    for group, _, batch in parquet_batches(file, path, lambda leaf, nulls: leaf == "shard", _ROWS_AT_ONCE, (0, 0)):
        groups.extend(Counter() for _ in range(len(groups), group + 1))
        counts = batch.column("shard").value_counts()
        groups[-1].update({str(count["values"]): count["counts"] for count in counts.to_pylist()})
    return [dict(counts) for counts in groups]


def _sample(row: Mapping[str, Any], shard: str, path: str, number: int) -> IndexedSample:
    offsets, sizes, key = row["member_offsets"], row["member_sizes"], row["key"]
    lists = isinstance(offsets, list) and isinstance(sizes, list) and offsets and len(offsets) == len(sizes)
    if not lists or not isinstance(key, str) or not all(_is_size(value) for value in (*offsets, *sizes)):
        raise _fault(path, f"row {number} does not say where its sample lies")
    members = [TarMember(key, offset, size) for offset, size in zip(offsets, sizes, strict=True)]
    return IndexedSample(shard, key, members[0], tuple(members[1:]))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _fault(path: str, what: str) -> SourceError:
    return SourceError(f"{path}: {what}; fetch it again, or remove it to read the shards from end to end")
