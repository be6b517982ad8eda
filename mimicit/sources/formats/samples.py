"""Tables of samples (see `mimicit.sample_table`): what `to_datasets` and ``mimicit export --to hub`` make of shards.

They are read as `shards` are: every triplet is one record, ``related`` are the ids of a query's context, and
``--context related`` gives the same samples again. Each name in the column ``source`` is a source again. Tables are
parquet or Arrow; the parts of one split (``train-00000-of-00005.parquet``) belong together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import BinaryIO, Final

from mimicit.errors import RejectedError, SchemaError, SourceError
from mimicit.records import Sample
from mimicit.sample_table import COLUMNS, PICTURES, sample_of_row
from mimicit.sources.containers.arrow import arrow_batches
from mimicit.sources.containers.disk_table import read_joined
from mimicit.sources.containers.parquet import parquet_batches
from mimicit.sources.containers.table_process import value_apart
from mimicit.sources.containers.table_rows import picture_columns, table_rows
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Join, Needs, SourceFormat, SourceSpec
from mimicit.sources.formats.datasets import TableSplit, table_splits
from mimicit.sources.formats.shard_triplets import check_shown, entries_of, records
from mimicit.sources.items import Entry, MediaRef, Piece, Reject, Row
from mimicit.sources.records.pieces import cut_rows, grouped, joined_pieces, whole
from mimicit.sources.sniff import Head, kept_head

_TABLES: Final = ("parquet", "arrow")
_CARD: Final = ("README.md", "contact-sheet.jpg")
_SOURCES: Final = "sources"
_MAX_SOURCES: Final = 10_000
_ROWS_AT_ONCE: Final = 10_000


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    specs = []
    for split in table_splits(heads, lambda path, head: _is_one(head)):
        for part in _sources_in(root, split.files[: split.tables], split.kind):
            why = f"{split.tables} {split.kind} tables of samples; their source {part!r}"
            name = f"{split.name}/{part}".strip("/")
            specs.append(
                SourceSpec(
                    name=name, format="samples", files=split.files, why=why, part=part, beside=_beside(heads, split)
                )
            )
    return specs


def _beside(heads: Mapping[str, Head], split: TableSplit) -> tuple[str, ...]:
    """The card and the contact sheet that an export writes into the folder above its tables, if they are there."""
    above = folder_of(folder_of(split.files[0]))
    return tuple(path for name in _CARD if (path := f"{above}/{name}".lstrip("/")) in heads)


def _is_one(head: Head) -> bool:
    fields = head.fields
    return (
        head.kind in _TABLES
        and set(COLUMNS) <= fields.keys()
        and "media" in picture_columns(fields)
        and "instruction: string" in fields["triplets"]
        and "sha256: list" in fields["media_info"]
    )


def _sources_in(root: Root, paths: Sequence[str], kind: str) -> list[str]:
    """The names in the column ``source``, sorted; one empty name if a table is damaged."""
    try:
        names = {name for path in paths for name in value_apart(root, path, _names, kind)}
    except SourceError:
        return [""]
    return sorted(names) or [""]


def _names(file: BinaryIO, path: str, kind: str) -> list[str]:
    names: set[str] = set()
    if kind == "arrow":
        batches = arrow_batches(file, path)
    else:
        leaves = parquet_batches(file, path, lambda leaf, nulls: leaf == "source", _ROWS_AT_ONCE, (0, 0))
        batches = (batch for _, _, batch in leaves)
    for batch in batches:
        names.update(str(name) for name in batch.column("source").unique().to_pylist() if name is not None)
        if len(names) > _MAX_SOURCES:
            raise SourceError(f"{path}: more than {_MAX_SOURCES:,} names in the column source")
    return sorted(names)


def _entries(spec: SourceSpec, root: Root) -> Iterator[Entry | Reject]:
    # The source of a row that cannot be read is unknown, so only the first source reports it.
    answers = root.kept((_SOURCES, spec.files), lambda: _first_source(spec, root)) == spec.part
    for path in spec.paths:
        if (kind := kept_head(root, path).kind) not in _TABLES:
            continue  # the other files of a saved data set
        for _, row in table_rows(root, path, is_arrow=kind == "arrow", piece=spec.piece):
            fields = {} if isinstance(row.fields, RejectedError) else row.fields
            is_mine = spec.part == fields["source"] if isinstance(fields.get("source"), str) else answers
            if not is_mine and spec.part:
                continue
            name = str(fields.get("id") or "")
            try:
                sample = _sample(row)
                yield from entries_of(sample, _media(sample, row), row.place, name)
            except RejectedError as error:
                yield spec.reject(error.reason, place=row.place, id=name, detail=error.detail)


def _first_source(spec: SourceSpec, root: Root) -> str:
    kinds = {path: kept_head(root, path).kind for path in spec.files}
    tables = [path for path, kind in kinds.items() if kind in _TABLES]
    return _sources_in(root, tables, kinds[tables[0]])[0] if tables else spec.part


def _split(spec: SourceSpec, root: Root) -> list[Piece]:
    pieces = grouped(root, (piece for path in spec.files for piece in (cut_rows(root, path) or [whole(path)])))
    return joined_pieces(pieces, pieces)


_JOIN: Final = Join(entries=_entries, records=records)
SAMPLES: Final = SourceFormat(
    claim=_claim,
    read=partial(read_joined, _JOIN),
    split=_split,
    join=_JOIN,
    of_media=True,  # the contact sheet
    needs=(Needs(_TABLES, (("triplets",), ("media_info",))),),
)


def _sample(row: Row) -> Sample:
    if isinstance(row.fields, RejectedError):
        raise row.fields
    try:
        sample = sample_of_row(row.fields)
    except (SchemaError, LookupError, TypeError, ValueError) as error:
        raise RejectedError("schema", f"no row of a sample: {error}") from None
    check_shown(sample, "the row")
    return sample


def _media(sample: Sample, row: Row) -> list[MediaRef]:
    """The media of ``sample``; each takes as many of the row's pictures as it has checksums."""
    parts = [part for ref in row.media for part in ref.parts if getattr(part, "column", PICTURES) == PICTURES]
    if (said := sum(len(medium.files) for medium in sample.media)) != len(parts):
        raise RejectedError("schema", f"media_info tells of {said} pictures and frames, media holds {len(parts)}")
    ahead = iter(parts)
    found = []
    for medium in sample.media:
        if len(medium.timestamps_s or medium.files) != len(medium.files):
            raise RejectedError("schema", f"a clip of {len(medium.files)} frames has other numbers of times")
        found.append(
            MediaRef(
                kind=medium.kind,
                parts=tuple(next(ahead) for _ in medium.files),
                origin=medium.origin,
                timestamps_s=medium.timestamps_s,
                duration_s=medium.duration_s,
            )
        )
    return found
