"""Tables of `datasets`: folders written by ``save_to_disk`` (Arrow), and parquet files with pictures inside.

One row is one record, read by the names of its columns (see `rows`):

- Pictures: every column of pictures (``{bytes, path}``, or plain bytes in a column called ``image``, ``jpg`` and so on,
  or lists of them), in the order of the columns, numbered columns by their numbers. Bytes win over a path; a picture
  with only a path is looked for next to the table, then from ``--src``. A row without a picture is text only. A table
  without a column of pictures may name its pictures, or hold them as base64 text.
- ``related instructions`` (the MIMIC-IT tables of the Hub): the related ids. Rows there may show a clip by its frames.
- ``id``, else the name of the file and the row. All other columns of values that JSON can hold go to ``meta``.
- The numbers of a column of class labels become the names that the features of the table give them.

The parts of one split (``train-00000-of-00005.parquet``) are one source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mimicit.errors import RejectedError
from mimicit.sources.containers.table_rows import picture_columns, table_rows
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import PICTURES, Needs, SourceFormat, SourceSpec
from mimicit.sources.formats.mimicit_ids import clip_of, conversation_of, names_clip
from mimicit.sources.items import Item, Piece, RawTriplet, Row
from mimicit.sources.records.column_names import ANSWERS, CAPTIONS, columns_of
from mimicit.sources.records.conversations import CONVERSATION_FIELDS, is_conversation
from mimicit.sources.records.pieces import cut_rows, grouped, whole
from mimicit.sources.records.row_media import MediaFinder
from mimicit.sources.records.rows import PlaceholderOptions, RowReader
from mimicit.sources.sniff import Head, sniff

_RELATED: Final = "related instructions"
_PART: Final = re.compile(r"-\d{5}-of-\d{5}.*$", re.ASCII)
_OWN_FILES: Final = ("dataset_info.json", "state.json")
_LEFTOVERS: Final = ("cache-", "tmp")  # of `map` and `filter`, in the folder of the data they were made from


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    return [
        SourceSpec(
            name=split.name,
            format="datasets",
            files=split.files,
            why=f"{split.tables} {split.kind} tables with {_shown_columns(heads[split.files[0]])}",
        )
        for split in table_splits(heads, lambda path, head: _is_table(path, head, force=force))
    ]


@dataclass(frozen=True, slots=True)
class TableSplit:
    """The tables of one split: the first ``tables`` of ``files``; the other files only describe them."""

    name: str
    kind: str
    files: tuple[str, ...]
    tables: int


def table_splits(heads: Mapping[str, Head], is_one: Callable[[str, Head], bool]) -> list[TableSplit]:
    """The tables for which ``is_one(path, head)`` is true, grouped by split."""
    splits: dict[tuple[str, str, str], list[str]] = {}
    for path, head in sorted(heads.items()):
        if is_one(path, head):
            stem = path.rpartition("/")[2].rpartition(".")[0]
            splits.setdefault((head.kind, folder_of(path), _PART.sub("", stem)), []).append(path)
    found = []
    for (kind, folder, stem), paths in sorted(splits.items()):
        own = [path for name in _OWN_FILES if (path := f"{folder}/{name}".strip("/")) in heads] * (kind == "arrow")
        name = folder if kind == "arrow" and stem == "data" and folder else f"{folder}/{stem}".strip("/")
        found.append(TableSplit(name, kind, (*paths, *own), len(paths)))
    return found


def _is_table(path: str, head: Head, *, force: bool) -> bool:
    if head.kind == "arrow":
        # No other format uses Arrow, so a table that cannot be read or used is claimed too, and its fault reported.
        return not path.rpartition("/")[2].startswith(_LEFTOVERS)
    if head.kind != "parquet":
        return False
    columns = columns_of(head.fields)
    says = bool(columns.captions or columns.chosen or (columns.instructions and columns.places))
    return force or (bool(picture_columns(head.fields)) and says) or is_conversation(head.fields)


def _shown_columns(head: Head) -> str:
    columns = columns_of(head.fields)
    names = (*CONVERSATION_FIELDS, *columns.instructions, *columns.captions)
    texts = [name for name in dict.fromkeys(names) if name in head.fields]
    return f"pictures ({', '.join(picture_columns(head.fields)) or 'none'}) and texts ({', '.join(texts) or 'none'})"


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    options = PlaceholderOptions(**spec.options)  # type: ignore[arg-type]
    for path in spec.paths:
        head = sniff(root, path)
        if head.kind not in ("arrow", "parquet"):
            continue  # the other files of a saved data set
        reader = RowReader(
            spec=spec,
            finder=MediaFinder(root, folder_of(path)),
            own_media=bool(picture_columns(head.fields)),
            require_placeholders=bool(options.require_placeholders),
        )
        stem = path.rpartition("/")[2].rpartition(".")[0]
        unread = _unread_pictures(head)
        for number, row in table_rows(root, path, is_arrow=head.kind == "arrow", piece=spec.piece):
            if unread:
                yield spec.reject("unsupported_media", place=row.place, id=f"{stem}-{number}", detail=unread)
                continue
            is_hub_row = _RELATED in head.fields
            for item in reader.items_of(_hub_row(row) if is_hub_row else row, id=f"{stem}-{number}"):
                yield _in_conversation(item) if is_hub_row and isinstance(item, RawTriplet) else item


def _split(spec: SourceSpec, root: Root) -> list[Piece]:
    # Arrow tables stay whole: where the batches of a stream begin is only known once it is read.
    return grouped(root, (piece for path in spec.files for piece in (cut_rows(root, path) or [whole(path)])))


DATASETS: Final = SourceFormat(
    claim=_claim,
    read=_read,
    split=_split,
    options=PlaceholderOptions,
    needs=(Needs(("parquet", "arrow"), ((PICTURES,), (*ANSWERS, *CAPTIONS, *CONVERSATION_FIELDS))),),
)


def _unread_pictures(head: Head) -> str:
    """Why the bytes in a media column of the table cannot be read as pictures; empty if they can."""
    known = picture_columns(head.fields)
    for column, _ in columns_of(head.fields).media:
        kind = head.fields[column]
        if "binary" in kind and column not in known:
            return f"column {column[:80]!r} is {kind[:200]}; pictures are bytes, {{bytes, path}}, or lists of these"
    return ""


def _hub_row(row: Row) -> Row:
    """A row of the MIMIC-IT tables of the Hub, with its fields named as in other tables and its frames as one clip."""
    if isinstance(row.fields, RejectedError):
        return row
    fields = {"related" if name == _RELATED else name: value for name, value in row.fields.items()}
    id = fields.get("id")
    is_clip = len(row.media) > 1 and isinstance(id, str) and names_clip(id)
    return row._replace(fields=fields, media=(clip_of(row.media, origin=str(id)),) if is_clip else row.media)


def _in_conversation(triplet: RawTriplet) -> RawTriplet:
    """``triplet`` with the conversation that its id names, if any."""
    said = conversation_of(triplet.id)
    return triplet._replace(conversation=said[0], turn=said[1]) if said else triplet
