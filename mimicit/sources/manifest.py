"""The manifest: a table of triplets, as a user with their own data writes it.

``manifest.jsonl`` (or a JSON array), ``manifest.csv``, ``manifest.parquet``, or any other name with these columns:

- ``instruction`` and ``answer``: text. Without an instruction, the answer is taken for a caption.
- ``media``: a path or a list of paths; ``image``, ``images`` and ``video`` are accepted in its place. Paths are
  relative to the folder of the manifest, else to ``--src``. Absent or empty: the triplet is text only. A clip may be
  given by its frames: ``{"frames": ["0.jpg", "1.jpg"], "timestamps_s": [0.0, 1.0], "duration_s": 2.0}``; the duration
  may be absent.
- ``id``: text or a whole number; without it, a hash of the record.
- ``related``: ids of triplets of the same manifest that belong together with this one.
- ``query``: false for a triplet that only ever serves as context of others.
- ``meta``: free fields. All other columns go there too.
- ``document``, instead of ``instruction`` and ``answer``: an interleaved document (see `document_rows`).

A CSV cell holds several paths or ids as a JSON list (``["a.jpg", "b.jpg"]``), or between ``;``, or between ``|``; a
name that itself holds one of these needs the JSON list. ``meta`` may be a JSON object in a CSV cell. People write CSV
by hand, so its columns may have other usual names too: ``question``, ``file_name``, ``caption`` (see `field_names`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

import orjson

from mimicit.errors import RejectedError
from mimicit.sources.base import Item, MediaRef, Needs, RawTriplet, Row, SourceFormat, SourceSpec
from mimicit.sources.column_names import MEDIA_FIELDS, field_names
from mimicit.sources.csv_rows import csv_rows
from mimicit.sources.document_rows import document_from_row, is_document_row
from mimicit.sources.each_row import triplets_of_rows
from mimicit.sources.finding import media_refs
from mimicit.sources.json_rows import json_rows
from mimicit.sources.json_values import json_value
from mimicit.sources.media_names import folder_of
from mimicit.sources.parquet import parquet_columns, parquet_rows
from mimicit.sources.root import Root
from mimicit.sources.sniff import Head, sniff
from mimicit.sources.triplet_rows import triplet_from_row

__all__ = ["MANIFEST"]

_NAMES: Final = frozenset({"manifest.jsonl", "manifest.ndjson", "manifest.csv", "manifest.tsv", "manifest.parquet"})
_FLAGS: Final = {"true": True, "false": False}
_TABLES: Final = frozenset({"array", "lines", "csv", "parquet"})


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    return [
        SourceSpec(
            name=_called_after(path),
            format="manifest",
            files=(path,),
            why=f"a table with the columns {_shown_columns(head) or '(named by --format)'}",
        )
        for path, head in sorted(heads.items())
        if head.kind in _TABLES and (force or _fits(path, head))
    ]


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.files:
        yield from triplets_of_rows(spec, _rows(root, path), partial(_triplet, root, folder_of(path)))


MANIFEST: Final = SourceFormat(
    claim=_claim,
    read=_read,
    by_record=True,
    needs=(Needs(("array", "lines", "csv", "parquet"), (("instruction",), ("answer",))),),
)


def _rows(root: Root, path: str) -> Iterator[Row]:
    kind = sniff(root, path).kind
    if kind == "csv":
        return _csv_rows(root, path)
    return _parquet_rows(root, path) if kind == "parquet" else json_rows(root, path)


def _parquet_rows(root: Root, path: str) -> Iterator[Row]:
    # Columns of bytes are no text of ours and could be pictures of any size.
    columns = [name for name, kind in parquet_columns(root, path).items() if "binary" not in kind]
    for number, (_, _, values) in enumerate(parquet_rows(root, path, columns)):
        place = f"{path}[{number}]"
        if isinstance(values, RejectedError):
            yield place, values
        else:
            yield place, {name: json_value(value) for name, value in values.items()}


def _triplet(root: Root, folder: str, row: Mapping[str, Any], id: str, place: str) -> RawTriplet:
    if is_document_row(row):
        return document_from_row(root, row, id=id, place=place, beside=folder)
    media: tuple[MediaRef, ...] = ()
    for column, kind in MEDIA_FIELDS.items():
        media += media_refs(root, _listed(row.get(column)), beside=folder, kind=kind)
    fields = {name: value for name, value in row.items() if name not in MEDIA_FIELDS}
    return triplet_from_row(fields, id=id, place=place, media=media)


def _known_columns(head: Head) -> dict[str, str]:
    """The fields of a triplet by the columns of the table that hold them."""
    names = field_names(head.fields) if head.kind == "csv" else {column: column for column in head.fields}
    known = {"id", "instruction", "answer", "related", *MEDIA_FIELDS}
    return {column: field for column, field in names.items() if field in known}


def _shown_columns(head: Head) -> str:
    columns = sorted(_known_columns(head).items())
    return ", ".join(column if field == column.casefold() else f"{column} ({field})" for column, field in columns)


def _fits(path: str, head: Head) -> bool:
    columns = _known_columns(head)
    if any("binary" in head.fields[column] for column in columns):
        return False  # pictures inside the table: another format
    fields = set(columns.values())
    if "answer" in fields and ("instruction" in fields or (head.kind == "csv" and fields & MEDIA_FIELDS.keys())):
        return True
    return PurePosixPath(path).name.lower() in _NAMES


def _called_after(path: str) -> str:
    return folder_of(path) or "manifest" if _stem(path) == "manifest" else path.rpartition(".")[0] or path


def _stem(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0].lower()


def _listed(value: object) -> list[object]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _csv_rows(root: Root, path: str) -> Iterator[Row]:
    fields: dict[str, str] = {}
    for place, row in csv_rows(root, path):
        try:
            if isinstance(row, RejectedError):
                raise row
            fields = fields or field_names(row)  # the columns of all rows are the same
            yield place, _uncelled({fields[column]: cell for column, cell in row.items()})
        except RejectedError as error:
            yield place, error


def _uncelled(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the CSV cells that stand for lists and objects taken apart."""
    fields = dict(row)
    for column in ("related", *MEDIA_FIELDS):
        if isinstance(row.get(column), str):
            fields[column] = _split(row[column], column)
    meta = row.get("meta")
    if isinstance(meta, str) and meta.lstrip().startswith("{"):
        fields["meta"] = _json_cell(meta, "meta")
    query = row.get("query")
    if isinstance(query, str):
        fields["query"] = _FLAGS.get(query.strip().lower(), query)
    return fields


def _split(cell: str, column: str) -> list[str]:
    is_json = cell.lstrip().startswith("[")
    entries = _json_cell(cell, column) if is_json else cell.split(";" if ";" in cell else "|")
    return [entry.strip() if isinstance(entry, str) else entry for entry in entries if entry != ""]


def _json_cell(cell: str, column: str) -> Any:
    try:
        return orjson.loads(cell)
    except orjson.JSONDecodeError as error:
        raise RejectedError("malformed", f"{column} is no JSON: {error}") from None
