"""Questions in one JSON file, and their answers in another, joined by ``question_id``, as ActivityNet-QA has them.

``train_q.json`` lists ``{"question_id", "question", "video_name"}`` and ``train_a.json`` ``{"question_id", "answer"}``:
the two lie in one folder, and their names differ in nothing but the word for question or answer. All other fields go to
``meta``. The answers are kept on disk until their questions are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final

import orjson

from mimicit.errors import RejectedError, SchemaError
from mimicit.schema import canonical_json, null_for_nan
from mimicit.sources.containers.disk_table import read_joined, repeated_answer, unused_answer
from mimicit.sources.containers.json_rows import json_rows
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Join, Lookup, SourceFormat, SourceSpec
from mimicit.sources.items import Entry, Item, Note, Piece, Reject, Row
from mimicit.sources.records.column_names import columns_of
from mimicit.sources.records.nested_rows import fields_of
from mimicit.sources.records.pieces import cut_records, joined_pieces
from mimicit.sources.records.row_media import MediaFinder
from mimicit.sources.records.rows import RowReader
from mimicit.sources.records.text import checked_id
from mimicit.sources.sniff import Fields, Head

_ID: Final = "question_id"
_WORD: Final = re.compile(r"(?<![a-z])(?:(q|questions?)|(a|answers?|annotations?))(?![a-z])")
_ROWS_AT_ONCE: Final = 500


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    listed = {path: head for path, head in sorted(heads.items()) if head.kind in ("array", "lines")}
    answers = {_pair(path): path for path, head in listed.items() if _pair(path) and head.any(_answers)}
    return [
        SourceSpec(
            name=path.rpartition(".")[0] or path,
            format="question-answers",
            files=(path, answers[_pair(path)]),
            why="a list of questions, and one of their answers by question_id",
        )
        for path, head in listed.items()
        if (force or head.any(_asks)) and answers.get(_pair(path), path) != path
    ]


def _pair(path: str) -> str:
    """What the paths of questions and of their answers have in common; empty if the name holds no word for either."""
    name = path.rpartition("/")[2].lower()
    words = list(_WORD.finditer(name))
    if not words:
        return ""
    return f"{folder_of(path)}/{name[: words[-1].start()]}?{name[words[-1].end() :]}"


def _asks(fields: Fields) -> bool:
    columns = columns_of(fields_of(fields))
    return _ID in fields and bool(columns.instructions and columns.media) and not (columns.answers or columns.choices)


def _answers(fields: Fields) -> bool:
    columns = columns_of(fields_of(fields))
    return _ID in fields and bool(columns.answers) and not (columns.instructions or columns.media)


def _entries(spec: SourceSpec, root: Root) -> Iterator[Entry | Reject | Note]:
    for path in spec.paths:
        if path == spec.files[0]:
            continue
        for place, fields, *_ in json_rows(root, path, spec.piece):
            id = ""
            try:
                if isinstance(fields, RejectedError):
                    raise fields
                id = checked_id(fields.get(_ID), _ID)
                others = {name: value for name, value in fields.items() if name != _ID}
                try:
                    text = canonical_json(others)
                except SchemaError:
                    text = canonical_json(null_for_nan(others))
                    yield Note("nan_as_null", place)
            except (RejectedError, SchemaError) as error:
                reason, detail = (
                    ("malformed", str(error)) if isinstance(error, SchemaError) else (error.reason, error.detail)
                )
                yield spec.reject(reason, place=place, id=id, detail=detail, scope="reference")
                continue
            yield Entry(id, text.decode(), place)


def _records(spec: SourceSpec, root: Root, answers: Lookup) -> Iterator[Item]:
    path = spec.files[0]
    reader = RowReader(spec=spec, finder=MediaFinder(root, folder_of(path)), id_fields=(_ID,))
    rows = json_rows(root, path, spec.piece)
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        found = answers.use_all(list(filter(None, map(_id_of, some))))
        yield from reader.items([_answered(row, found) for row in some])


def _answered(row: Row, found: Mapping[str, str]) -> Row:
    """The row with the fields of its answer."""
    id = _id_of(row)
    if isinstance(row.fields, RejectedError) or not id:
        return row
    if id not in found:
        detail = f"no answer has the {_ID} {id}"
        return row._replace(fields=RejectedError("empty_answer", detail))
    return row._replace(fields={**orjson.loads(found[id]), **row.fields})


def _id_of(row: Row) -> str:
    if isinstance(row.fields, dict):
        with suppress(RejectedError):
            return checked_id(row.fields.get(_ID), _ID)
    return ""


def _split(spec: SourceSpec, root: Root) -> list[Piece]:
    questions, answers = spec.files
    return joined_pieces(cut_records(root, answers), cut_records(root, questions))


_JOIN: Final = Join(entries=_entries, records=_records, repeated=repeated_answer, unused=unused_answer)
QUESTION_ANSWERS: Final = SourceFormat(claim=_claim, read=partial(read_joined, _JOIN), split=_split, join=_JOIN)
