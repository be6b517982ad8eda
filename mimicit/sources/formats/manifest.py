"""The manifest: a table of triplets, as a user with their own data writes it.

``manifest.jsonl`` (or a JSON array, one object around lists: ``{"data": [...]}``, or one of records by id),
``manifest.csv``, ``manifest.parquet``, or any other name with these columns:

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
name that itself holds one of these needs the JSON list. ``meta`` may be a JSON object in a CSV cell. Columns may
have other usual names too: ``question``, ``file_name``, ``caption`` (see `column_names`), and a row may be a question
with choices or a conversation (see `rows`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, Final

import orjson

from mimicit.errors import RejectedError
from mimicit.sources.containers.csv_rows import csv_rows
from mimicit.sources.containers.json_members import first_of_members, keyed_rows, member_rows
from mimicit.sources.containers.json_rows import json_rows
from mimicit.sources.containers.table_rows import picture_columns, table_rows
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Needs, SourceFormat, SourceSpec
from mimicit.sources.items import Item, Locate, Locator, Piece, Row
from mimicit.sources.records.choices import listed_texts
from mimicit.sources.records.claiming import around_annotated
from mimicit.sources.records.column_names import MEDIA_FIELDS, columns_of, field_names
from mimicit.sources.records.conversations import CONVERSATION_FIELDS
from mimicit.sources.records.nested_rows import fields_of, inside, merged, nested_list, spread
from mimicit.sources.records.pieces import cut_list, cut_members, cut_records, cut_rows, whole
from mimicit.sources.records.row_media import MediaFinder, names_nothing
from mimicit.sources.records.rows import PlaceholderOptions, RowReader
from mimicit.sources.sniff import Fields, Head, HeadKind, sniff

_NAMES: Final = frozenset({"manifest.jsonl", "manifest.ndjson", "manifest.csv", "manifest.tsv", "manifest.parquet"})
_FLAGS: Final = {"true": True, "false": False}
_TABLES: Final = frozenset({"array", "lines", "csv", "parquet"})
_ADDRESS: Final = "imageURL"


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    specs = []
    for path, head in sorted(heads.items()):
        if (head.kind in _TABLES and (force or _fits(path, head))) or _lists(head) or _has_keys(head):
            beside, made_from = around_annotated(heads, path)
            specs.append(
                SourceSpec(
                    name=_called_after(path),
                    format="manifest",
                    files=(path,),
                    why=f"a table with the columns {_shown_columns(head) or '(named by --format)'}",
                    beside=beside,
                    made_from=made_from,
                )
            )
    return specs


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    options = PlaceholderOptions(**spec.options)  # type: ignore[arg-type]
    for path in spec.paths:
        finder = MediaFinder(root, folder_of(path))
        reader = RowReader(spec=spec, finder=finder, require_placeholders=bool(options.require_placeholders))
        yield from reader.items(_rows(root, path, spec.piece))


def _pieces(spec: SourceSpec, root: Root) -> list[Piece]:
    return [piece for path in spec.files for piece in (cut_rows(root, path) or _cut_text(root, path))]


MANIFEST: Final = SourceFormat(
    claim=_claim,
    read=_read,
    split=_pieces,
    by_record=True,
    options=PlaceholderOptions,
    needs=(Needs(("array", "lines", "csv", "parquet"), (("instruction",), ("answer",))),),
)


def _cut_text(root: Root, path: str) -> list[Piece]:
    """The pieces of a JSON or CSV file; an object around several lists stays whole."""
    head = sniff(root, path)
    if _has_keys(head):
        return cut_members()(root, path)
    match _all_lists(root, path, head):
        case []:
            return cut_records(root, path)
        case [name]:
            return cut_list(name)(root, path)
        case _:
            return [whole(path)]


def _all_lists(root: Root, path: str, head: Head) -> list[str]:
    """`_lists`, and the lists that lie beyond the ``head``, in the order of the file; costs a pass over it."""
    seen = _lists(head)
    if not seen:
        return []
    return [
        name
        for name, record in first_of_members(root, path).items()
        if name in seen
        or (
            isinstance(record, dict)
            and (_is_row("array", dict.fromkeys(record, "")) or CONVERSATION_FIELDS[0] in record)
        )
    ] or seen


def _rows(root: Root, path: str, piece: Piece | None) -> Iterator[Row]:
    head = sniff(root, path)
    kind = head.kind
    if kind == "csv":
        return _csv_rows(root, path, piece)
    if kind == "parquet":
        return (row for _, row in table_rows(root, path, is_arrow=False, piece=piece))
    found: Iterator[Row]
    if _has_keys(head):
        found = map(_named_by_key, keyed_rows(root, path, piece))
        shapes = [inside(head.fields, f"{name}.") for name in fields_of(head.fields)]
    elif lists := _lists(head):
        if piece is None or piece.end is None or len(lists) > 1:  # a piece is of the only list
            lists = _all_lists(root, path, head)
        found = chain.from_iterable(member_rows(root, path, name, piece) for name in lists)
        shapes = [inside(head.fields, f"{name}[].") for name in lists]
    else:
        found, shapes = json_rows(root, path, piece), list(head.shapes)
    nested = next(filter(None, map(nested_list, shapes)), None)
    return found if nested is None else spread(found, nested)


def _named_by_key(row: Row) -> Row:
    """The row of a record by its id, with the path or the name of its picture, if only the id tells it.

    ScienceQA calls all pictures ``image.png``, each in a folder named by the id; OCR-VQA gives their addresses, but
    calls the files by the ids.
    """
    fields = row.fields
    if not isinstance(fields, dict):
        return row
    if fields.get("image") == "image.png" and isinstance(fields.get("split"), str):
        return row._replace(fields={**fields, "image": f"{fields['split']}/{fields['id']}/image.png"})
    if fields.get(_ADDRESS) and _shows_its_key(fields):
        return row._replace(fields={**fields, "image_id": fields["id"]})
    return row


def _shows_its_key(names: Collection[str]) -> bool:
    """Whether a record with these fields, in an object by ids, is about the picture that its id names."""
    return _ADDRESS in names and not columns_of(names).media


def _fits(path: str, head: Head) -> bool:
    return head.any(lambda fields: _is_row(head.kind, fields)) or PurePosixPath(path).name.lower() in _NAMES


def _lists(head: Head) -> list[str]:
    """The names of the lists of records, if the file is a JSON object around them (``{"version": 1, "data": [...]}``).

    Empty if the object is a record itself.
    """
    names = _names(head.kind, head.fields)
    columns = columns_of(name for name in names if head.fields.get(f"{name}[]") != "object")
    is_record = bool(columns.media or columns.instructions or columns.captions or {"id", "document"} & set(names))
    if head.kind not in ("object", "lines") or sum(head.counts) != 1 or is_record:
        return []
    return [name for name in names if _are_rows(head, f"{name}[].")]


def _has_keys(head: Head) -> bool:
    """Whether the file is a JSON object of records by their ids (``{"07333408": {"imageId": ..., ...}}``)."""
    if head.kind not in ("object", "lines") or sum(head.counts) != 1:
        return False
    names = _names(head.kind, head.fields)
    return all(head.fields[name] == "object" for name in names) and any(_are_rows(head, f"{name}.") for name in names)


def _are_rows(head: Head, start: str) -> bool:
    """Whether the records whose fields begin with ``start`` in the ``head`` are rows."""
    fields = inside(head.fields, start)
    if not start.endswith("[].") and _shows_its_key(fields_of(fields)):
        fields = {**fields, "image_id": "text"}
    # The head does not reach as deep as the speakers of a conversation.
    return _is_row("array", fields) or any(fields.get(key) == "array" for key in CONVERSATION_FIELDS[:2])


def _is_row(kind: HeadKind, fields: Fields) -> bool:
    """Whether the columns hold media and a text about them, or a question and its answer, or a list of these.

    Only a CSV file may use other names for question and answer: in JSON, a question without a picture is mostly about
    a picture that another file names.
    """
    if kind in ("array", "lines", "object") and (nested := nested_list(fields)):
        fields = merged(fields, nested)
    columns = columns_of(_names(kind, fields))
    if any("binary" in fields[column] for column, _ in columns.media) or picture_columns(fields):
        return False  # pictures inside the table: another format
    answers = columns.answers or columns.chosen or columns.places
    if columns.by_id and not columns.instructions:  # the answer to a question elsewhere, or a class, is no caption
        return not {"caption", "captions", "sentences", "description"}.isdisjoint(map(str.lower, columns.captions))
    if columns.media and (columns.captions or (columns.instructions and answers)):
        return True
    return {"instruction", "answer"} <= fields.keys() or bool(kind == "csv" and columns.instructions and answers)


def _names(kind: HeadKind, fields: Fields) -> list[str]:
    """The names of the columns, without the fields that are nested inside JSON columns."""
    return list(fields) if kind in ("csv", "parquet") else fields_of(fields)


def _shown_columns(head: Head) -> str:
    """The known columns, by name; for a column with another name, also the field that it stands for."""
    names = _names(head.kind, head.fields)
    starts = [f"{name}." for name in names] if _has_keys(head) else [f"{name}[]." for name in _lists(head)]
    for start in starts[:1]:
        inner = [path.removeprefix(start) for path in head.fields if path.startswith(start)]
        names = _names("array", dict.fromkeys(inner, ""))
    known = {"id", "instruction", "answer", "questions", "answers", "related", *MEDIA_FIELDS}
    fields = sorted((column, field) for column, field in field_names(names).items() if field in known)
    return ", ".join(column if field == column.casefold() else f"{column} ({field})" for column, field in fields)


def _called_after(path: str) -> str:
    return folder_of(path) or "manifest" if _stem(path) == "manifest" else path.rpartition(".")[0] or path


def _stem(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0].lower()


def _csv_rows(root: Root, path: str, piece: Piece | None) -> Iterator[Row]:
    fields: dict[str, str] = {}
    columns: dict[str, str] = {}
    for row in csv_rows(root, path, piece):
        if isinstance(row.fields, RejectedError):
            yield row
            continue
        if not fields:  # the columns of all rows are the same
            fields = field_names(row.fields)
            columns = {field: column for column, field in fields.items()}
        try:
            cells = _uncelled({fields[column]: cell for column, cell in row.fields.items()})
        except RejectedError as error:
            yield Row(row.place, error)
        else:
            yield Row(row.place, cells, partial(_in_cell, row.locate, columns) if row.locate else None)


def _in_cell(locate: Locate, columns: Mapping[str, str], steps: Sequence[str | int]) -> Locator:
    """Where the cell of a field lies; the only entry of a list is the cell itself."""
    return locate([columns[str(steps[0])], *(step for step in steps[1:] if step != 0)])


def _uncelled(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the lists and objects parsed that its CSV cells hold."""
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
    if cell.lstrip()[:5].lower() == "data:":  # a picture as text, which has a semicolon of its own
        return [cell.strip()]
    listed = listed_texts(cell)
    if isinstance(listed, list):  # also as pandas prints it
        return listed
    is_json = cell.lstrip().startswith("[")
    entries = _json_cell(cell, column) if is_json else cell.split(";" if ";" in cell else "|")
    return [entry.strip() if isinstance(entry, str) else entry for entry in entries if not names_nothing(entry)]


def _json_cell(cell: str, column: str) -> Any:
    try:
        return orjson.loads(cell)
    except orjson.JSONDecodeError as error:
        raise RejectedError("malformed", f"{column} is no JSON: {error}") from None
