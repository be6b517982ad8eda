"""Index shards that others made, so that `mimicit.load` reads them in place: ``mimicit index FOLDER``.

Nothing in a tar is changed or copied. Members become samples by the rules of the format ``webdataset`` (see
`mimicit.sources.formats.webdataset`): a sample of img2dataset or similar tools is one query triplet, with the caption
as answer and an instruction from the fixed pool, or with the ``instruction`` and ``answer`` of the ``.json``; a
conversation is one sample, with its earlier turns as context. Their JSON is kept in the column ``json`` of the index;
the pictures are read from the tars. What mimicit's shards cannot hold (clips, formats other than JPEG, PNG and WebP) is
listed in ``rejects.parquet``; build such a folder instead.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mimicit.errors import RejectedError, SchemaError, ShardError, SourceError, UsageError
from mimicit.media import MediaOptions
from mimicit.media.headers import is_cut
from mimicit.media.image_file import probe_image
from mimicit.pipeline.parts import batched
from mimicit.pipeline.stages.media_table import own_version
from mimicit.pipeline.stages.publish import REJECTS_NAME, REJECTS_SCHEMA
from mimicit.records import FORMAT, Media, Sample, Triplet, sample_to_json
from mimicit.schema import canonical_json, validate
from mimicit.shards.files import publish, sha256_of, write_atomically
from mimicit.shards.folders import held_folder
from mimicit.shards.index import INDEX_NAME, INDEX_SCHEMA, JSON_COLUMN, IndexRow, rows_to_table
from mimicit.shards.manifest import MANIFEST_NAME, read_manifest
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.formats.webdataset import WEBDATASET
from mimicit.sources.items import InTar, Item, MediaRef, RawTriplet, Reject

LAYOUT: Final = "foreign"

_SCHEMA: Final = INDEX_SCHEMA.append(pa.field(JSON_COLUMN, pa.binary()))
_SOURCE: Final = "webdataset"
_EXTENSIONS: Final = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.tar")
_ROWS: Final = 256  # held before they are written, with their pictures
_MAX_PICTURE_BYTES: Final = 1 << 28


@dataclass(kw_only=True)
class IndexReport:
    """What was found: ``rejected`` counts the records that were left out, by reason."""

    samples: int = 0
    shards: int = 0
    totals: Counter[str] = field(default_factory=Counter)
    relations: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    rejects: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    row: IndexRow
    json: bytes


def index_folder(folder: Path) -> IndexReport:
    """Write ``index.parquet``, ``rejects.parquet`` and ``manifest.json`` next to the tars of ``folder``.

    Run again after a tar has changed. `UsageError` if `mimicit build` has written the folder, `ShardError` if it holds
    no tar, none with a sample, or files that cannot be read or written, and `SourceError` if a tar is damaged.
    """
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder; give one that holds .tar files")
    paths = sorted(path.name for path in folder.glob("*.tar") if not path.name.startswith("."))
    if not paths:
        raise ShardError(f"{folder}: holds no .tar file")
    for name in paths:
        if not _NAME.fullmatch(name):
            raise ShardError(
                f"{folder / name}: rename it; names of shards are letters, digits, dot, dash and underscore"
            )
    with held_folder(folder, "mimicit index", required=False):
        try:
            return _index_tars(folder, paths)
        except OSError as error:  # a tar that cannot be read, or a folder that cannot be written
            place = error.filename2 or error.filename or folder
            raise ShardError(f"{place}: {error.strerror or error}; mend this, and index the folder again") from None


def _index_tars(folder: Path, paths: Sequence[str]) -> IndexReport:
    """As `index_folder`, for the tars ``paths`` of a folder that is locked."""
    if (folder / MANIFEST_NAME).exists():
        if read_manifest(folder)["layout"] != LAYOUT:
            raise UsageError(f"{folder}: mimicit build has written it, and its index; load it as it is")
        (folder / MANIFEST_NAME).unlink()  # unfinished from here on
    report = IndexReport()
    shards: list[dict[str, Any]] = []
    with (
        publish(folder / INDEX_NAME, folder / f".{INDEX_NAME}.tmp") as index_file,
        publish(folder / REJECTS_NAME, folder / f".{REJECTS_NAME}.tmp") as rejects_file,
        pq.ParquetWriter(index_file, _SCHEMA, compression="zstd") as index,
        pq.ParquetWriter(rejects_file, REJECTS_SCHEMA, compression="zstd") as rejects,
    ):
        for name in paths:
            shard = _index_shard(folder, name, index, rejects, report)
            if shard["samples"]:
                shards.append(shard)
        if not shards:
            raise ShardError(f"{folder}: no sample in {len(paths)} tar file(s): {_words(report.rejected)}")
    report.shards = len(shards)
    write_atomically(folder / MANIFEST_NAME, [canonical_json(_manifest(folder, shards, report))])
    return report


def _index_shard(
    folder: Path, name: str, index: pq.ParquetWriter, rejects: pq.ParquetWriter, report: IndexReport
) -> dict[str, Any]:
    """Add the rows of one tar; returns its entry of the manifest."""
    root = Root(folder)
    path = folder / name
    size = path.stat().st_size
    contents = hashlib.sha256()
    count = 0
    with root.open_input(name) as file:
        for batch in batched(_entries(root, name, file), _ROWS):
            entries = [entry for entry in batch if isinstance(entry, _Entry)]
            left_out = [entry for entry in batch if isinstance(entry, Reject)]
            for entry in entries:
                contents.update(hashlib.sha256(entry.json).digest())
            table = rows_to_table([entry.row for entry in entries])
            column = pa.array([entry.json for entry in entries], pa.binary())
            index.write_table(table.append_column(_SCHEMA.field(JSON_COLUMN), column))
            _write_rejects(rejects, left_out)
            _count(report, table, left_out)
            count += len(entries)
    checksum = sha256_of(path)
    if path.stat().st_size != size:
        raise SourceError(f"{path}: changed while it was read; index the folder again")
    return {"name": name, "sha256": checksum, "bytes": size, "samples": count, "content": contents.hexdigest()}


def _entries(root: Root, name: str, file: BinaryIO) -> Iterator[_Entry | Reject]:
    """The samples and the rejects of one tar."""
    spec = SourceSpec(name=_SOURCE, format="webdataset", files=(name,), why="")
    keys: set[str] = set()  # of this tar
    for place, group in groupby(WEBDATASET.read(spec, root), key=_place):
        turns: list[RawTriplet] = []
        for item in group:
            if isinstance(item, RawTriplet):
                turns.append(item)
            elif isinstance(item, Reject):
                yield item
        if not turns:
            continue
        key = place.partition("#")[2]
        try:
            if key in keys:
                raise RejectedError("duplicate_id", f"the sample {key!r} stands in two places of {name}")
            keys.add(key)
            yield _entry(name, key, turns, file)
        except (RejectedError, SchemaError) as error:
            reason, detail = (
                (error.reason, error.detail) if isinstance(error, RejectedError) else ("schema", str(error))
            )
            for turn in turns:
                yield spec.reject(reason, place=place, id=turn.id, detail=detail)


def _place(item: Item) -> str:
    if isinstance(item, Reject):
        return item.locator
    return item.place if isinstance(item, RawTriplet) else ""


def _entry(name: str, key: str, turns: list[RawTriplet], file: BinaryIO) -> _Entry:
    """One sample of the turns of one place: a caption, or a conversation."""
    media: list[Media] = []
    offsets: list[int] = []
    triplets: list[Triplet] = []
    last: tuple[MediaRef, ...] = ()
    for number, turn in enumerate(turns):
        shown = () if turn.media == last else turn.media  # a later turn about the same pictures shows none
        last = turn.media
        places = tuple(range(len(media), len(media) + len(shown)))
        for ref in shown:
            medium, offset = _read_medium(ref, len(media), file)
            media.append(medium)
            offsets.append(offset)
        is_query = number == len(turns) - 1
        triplets.append(
            Triplet(
                id=turn.id,
                role="query" if is_query else "context",
                relation=None if is_query else "conversation",
                media=places,
                instruction=turn.instruction,
                answer=turn.answer,
            )
        )
    sample = Sample(
        id=turns[-1].id if len(turns) == 1 else key,
        source=_SOURCE,
        media=tuple(media),
        triplets=tuple(triplets),
        meta=turns[-1].meta,
    )
    value = sample_to_json(sample)
    validate("sample", value)
    sizes = [len(medium.data[0]) for medium in media]
    row = IndexRow(
        shard=name,
        key=key,
        offset=min(offsets),
        size=max(offset + size for offset, size in zip(offsets, sizes, strict=True)) - min(offsets),
        member_offsets=offsets,
        member_sizes=sizes,
        sample=sample,
    )
    return _Entry(row, canonical_json(value))


def _read_medium(ref: MediaRef, number: int, file: BinaryIO) -> tuple[Media, int]:
    """The picture that ``ref`` names, with its bytes, and its offset in the tar."""
    part = ref.parts[0]
    if ref.kind != "image" or not isinstance(part, InTar):
        raise RejectedError("unsupported_media", f"{ref.origin!r} is no picture; build the folder instead")
    if part.size > _MAX_PICTURE_BYTES:
        raise RejectedError("too_long", f"{ref.origin!r} has {part.size:,} bytes, more than {_MAX_PICTURE_BYTES:,}")
    file.seek(part.offset)
    data = file.read(part.size)
    header = probe_image(data, MediaOptions())
    if is_cut(data, header.format):
        raise RejectedError("truncated_image", f"{ref.origin!r} ends early, after {len(data):,} bytes")
    extension = _EXTENSIONS.get(header.format)
    if extension is None:
        raise RejectedError(
            "unsupported_media", f"{ref.origin!r} is a {header.format.upper()}; build the folder instead"
        )
    medium = Media(
        kind="image",
        files=(f"{number:03d}.{extension}",),
        width=header.width,
        height=header.height,
        sha256=(hashlib.sha256(data).hexdigest(),),
        origin=ref.origin,
        data=(data,),
    )
    return medium, part.offset


def _write_rejects(rejects: pq.ParquetWriter, left_out: list[Reject]) -> None:
    columns = [[getattr(reject, name) for reject in left_out] for name in REJECTS_SCHEMA.names]
    rejects.write_table(pa.table([pa.array(column, pa.string()) for column in columns], schema=REJECTS_SCHEMA))


def _count(report: IndexReport, table: pa.Table, left_out: list[Reject]) -> None:
    report.samples += table.num_rows
    for name in ("triplets", "media", "frames", "characters"):
        report.totals[name] += sum(table.column(name).to_pylist())
    for relations in table.column("relations").to_pylist():
        report.relations.update({name: count for name, count in relations.items() if count})
    report.rejected.update(reject.reason for reject in left_out if reject.scope == "record")
    report.rejects += len(left_out)


def _manifest(folder: Path, shards: list[dict[str, Any]], report: IndexReport) -> dict[str, Any]:
    names = hashlib.sha256(b"".join(canonical_json([shard["name"], shard["sha256"]]) for shard in shards))
    size = sum(shard["bytes"] for shard in shards)
    triplets = report.totals["triplets"]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "layout": LAYOUT,
        "mimicit_version": own_version(),
        "config": {},
        "input": {"fingerprint": names.hexdigest(), "files": len(shards), "bytes": size},
        "libraries": {},
        "shards": shards,
        "files": {name: sha256_of(folder / name) for name in (INDEX_NAME, REJECTS_NAME)},
        "sources": [
            {
                "name": _SOURCE,
                "format": "webdataset",
                "why": f"{len(shards)} tar of samples with pictures and texts, indexed where they lie",
                "in": triplets + sum(report.rejected.values()),
                "out": report.samples,
                "merged": triplets - report.samples,
                "rejected": dict(sorted(report.rejected.items())),
            }
        ],
        "totals": {
            "samples": report.samples,
            **{name: report.totals[name] for name in ("triplets", "media", "frames", "characters")},
            "bytes": size,
            "rejects": report.rejects,
            "relations": dict(sorted(report.relations.items())),
        },
    }
    validate("manifest", manifest)
    return manifest


def _words(rejected: Counter[str]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in rejected.most_common()) or "nothing is in them"
