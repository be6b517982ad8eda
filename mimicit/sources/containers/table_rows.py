"""The rows of an Arrow or parquet table: their values, and the places of the pictures inside it.

Pictures are those of `datasets` (``{bytes, path}``) in any column, and plain bytes in a column with the name of a
picture (``image``, ``jpg``); or lists of them. Their bytes are not kept here, and in parquet mostly not even read. A
picture of `datasets` that has a path and no bytes is looked for like any other that is named by a path. Numbers of
classes become names if the table has them (as `datasets` keeps its features). The table is read in another process
(see `mimicit.sources.containers.table_process`).
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson

from mimicit.errors import RejectedError
from mimicit.sources.containers.arrow import arrow_batches, arrow_columns_of, arrow_damage
from mimicit.sources.containers.parquet import parquet_batches, parquet_columns_of, parquet_rows_by
from mimicit.sources.containers.table_process import MAX_VALUES, Place, check_columns, rows_apart, too_many_values
from mimicit.sources.files.finding import media_refs
from mimicit.sources.files.media_names import folder_of, named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.items import MAX_MEDIA, InArrow, InParquet, MediaRef, Piece, Row
from mimicit.sources.records.column_names import in_order

if TYPE_CHECKING:
    import pyarrow as pa

_Paths = list[tuple[str | None, bool]]
"""For each picture: its path, and whether it has nothing but that path."""

_TableRow = tuple[dict[str, Any], tuple[MediaRef, ...], tuple[int, ...]]
"""The values of one row that JSON can hold, by column, and its pictures in the order of the columns.

The last are the numbers of the pictures that have nothing but a path.
"""

_PICTURES: Final = re.compile(  # whatever else it holds, and whatever stands there for a path that is always null
    r"(?:(?:large_)?list<\w+: )?"
    r"struct<(?:\w+: [\w ]+, )*bytes: (?:large_)?binary(?: not null)?(?:, \w+: [\w ]+)*>"
    r"(?: not null)?>?"
)
_BYTES: Final = re.compile(r"(?:large_)?binary|(?:large_)?list<\w+: (?:large_)?binary(?: not null)?>")
_PICTURE_NAMES: Final = re.compile(
    r"(?:(?:raw|binary|input|query|source|main)_)?(?:image|img|picture|photo|jpe?g|png|webp|gif|bmp|tiff?|video|mp4|clip)s?"
    r"(?:_?bytes|_?data|_?raw|_?binary|_?content|_?[0-9]{1,4})?",
    re.IGNORECASE | re.ASCII,
)
_CLIP_NAMES: Final = re.compile(r"video|mp4|clip", re.IGNORECASE)
_CHUNK_ROWS: Final = 256
_CHUNK_VALUES: Final = 100_000  # of all columns together
_RUN_BYTES: Final = 1 << 20  # of small record batches, joined
_MAX_ORIGIN: Final = 1024

_UNREAD: Final[tuple[bool, _Paths]] = (False, [(None, False)])  # a column of plain bytes without a null
_Item = int | tuple[str | int, ...] | None
_InTable = Callable[[int, str, _Item], InArrow | InParquet]
"""(row, column, what leads further into its cell) to the place of a picture."""


def picture_columns(kinds: Mapping[str, str]) -> list[str]:
    """The columns that hold pictures or lists of them, from the Arrow type of each in ``kinds``; in order."""
    return in_order(
        name
        for name, kind in kinds.items()
        if _PICTURES.fullmatch(kind) or (_BYTES.fullmatch(kind) and _PICTURE_NAMES.fullmatch(name))
    )


def table_rows(root: Root, path: str, *, is_arrow: bool, piece: Piece | None = None) -> Iterator[tuple[int, Row]]:
    """The rows of the table at ``path`` in order, or why one cannot be read, each with its number, from 0.

    With a ``piece`` of a parquet file, only the rows of its row groups. Columns of bytes that are not pictures are left
    out. A picture that is null counts if it is an entry of a list. `SourceError` if the table is damaged.
    """
    for number, block, row, found in _found(root, path, piece, is_arrow=is_arrow):
        place = f"{path}[{number}]"
        if isinstance(found, RejectedError):
            yield number, Row(place, found)
        else:
            values, media, named = found
            shown = tuple(_looked_for(root, path, ref) if n in named else ref for n, ref in enumerate(media))
            yield number, Row(place, values, partial(_located, is_arrow, path, block, row), shown)


def _found(
    root: Root, path: str, piece: Piece | None, *, is_arrow: bool
) -> Iterator[tuple[int, int, int, _TableRow | RejectedError]]:
    if not is_arrow:
        yield from parquet_rows_by(root, path, piece, _parquet_rows)
        return
    for number, (block, row, found) in enumerate(rows_apart(root, path, _arrow_rows, can_skip=False)):
        yield number, block, row, found


def _looked_for(root: Root, table: str, ref: MediaRef) -> MediaRef:
    """The file that the path in a cell means; if there is none, the cell itself, and reading that says why."""
    try:
        (found,) = media_refs(root, [ref.origin], beside=folder_of(table), kind=ref.kind)
    except RejectedError:
        return ref
    return found


def _located(is_arrow: bool, path: str, block: int, row: int, steps: Sequence[str | int]) -> InArrow | InParquet:
    column, *inner = steps
    item: _Item = tuple(inner) or None
    if len(inner) == 1 and isinstance(inner[0], int):
        item = inner[0]
    return (InArrow if is_arrow else InParquet)(path, block, row, str(column), item)


def _arrow_rows(
    file: BinaryIO, path: str, at_once: int, start: Place
) -> Iterator[tuple[int, int, _TableRow | RejectedError]]:
    kinds = arrow_columns_of(file, path)
    check_columns(len(kinds))
    pictures = picture_columns(kinds)
    needed = [name for name, kind in kinds.items() if name in pictures or "binary" not in kind]
    needed = needed or list(kinds)  # without any column, a batch has no rows to count
    can_join = not any("dictionary" in kinds[name] for name in needed)
    for number, firsts, batch in _runs(path, arrow_batches(file, path), start, needed, at_once if can_join else 0):
        rows = _rows(path, batch, partial(_in_arrow, path, number, firsts), pictures, at_once)
        for row, values in enumerate(rows):
            yield *_in_batch(number, firsts, row), values


def _runs(
    path: str, batches: Iterable[pa.RecordBatch], start: Place, columns: Sequence[str], most_rows: int
) -> Iterator[tuple[int, list[int], pa.RecordBatch]]:
    """The ``columns`` of the ``batches`` from ``start`` on, small ones joined up to ``most_rows``.

    With the number of the first batch in each, and the row of it at which each of its batches begins. A batch costs as
    much as 20 rows, and writers that flush after every row make batches of one.
    """
    run: list[pa.RecordBatch] = []
    first, firsts, rows, size = start[0], [-start[1]], 0, 0
    for number, whole in enumerate(batches):
        if number < start[0]:
            continue
        batch = whole.select(columns).slice(start[1] if number == start[0] else 0)
        length = batch.get_total_buffer_size()
        if run and (rows + len(batch) > most_rows or size + length > _RUN_BYTES):
            yield first, firsts, _joined(path, run)
            run, first, firsts, rows, size = [], number, [0], 0, 0
        elif run:
            firsts.append(rows)
        run.append(batch)
        rows += len(batch)
        size += length
    if run:
        yield first, firsts, _joined(path, run)


def _joined(path: str, run: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    import pyarrow as pa

    if len(run) == 1:
        return run[0]
    with arrow_damage(path):
        for batch in run:
            batch.validate(full=True)
        columns = [pa.concat_arrays(columns) for columns in zip(*(batch.columns for batch in run), strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=run[0].schema)


def _in_arrow(path: str, batch: int, firsts: Sequence[int], row: int, column: str, item: _Item) -> InArrow:
    return InArrow(path, *_in_batch(batch, firsts, row), column, item)


def _in_batch(batch: int, firsts: Sequence[int], row: int) -> Place:
    """The batch, and the row in it, of a ``row`` of batches that begin at the rows ``firsts``, from ``batch`` on."""
    step = bisect_right(firsts, row) - 1
    return batch + step, row - firsts[step]


def _parquet_rows(
    file: BinaryIO, path: str, end: int | None, at_once: int, start: Place
) -> Iterator[tuple[int, int, _TableRow | RejectedError]]:
    kinds = parquet_columns_of(file, path)
    check_columns(len(kinds))
    pictures = picture_columns(kinds)

    def is_needed(leaf: str, nulls: int | None) -> bool:
        column = next((name for name in kinds if leaf == name or leaf.startswith(f"{name}.")), "")
        if column not in pictures:
            return "binary" not in kinds.get(column, "")
        if _PICTURES.fullmatch(kinds[column]):
            if leaf.endswith(".bytes"):  # read to see which have nothing but a path
                return nulls != 0 or "path: " not in kinds[column]
            return leaf.endswith(".path")
        return nulls != 0 or "list" in kinds[column]  # plain bytes: read to see which are null

    for group, first, batch in parquet_batches(file, path, is_needed, at_once, start, end):
        rows = _rows(path, batch, partial(_in_parquet, path, group, first), pictures, at_once)
        for row, values in enumerate(rows, first):
            yield group, row, values


def _in_parquet(path: str, group: int, first: int, row: int, column: str, item: _Item) -> InParquet:
    return InParquet(path, group, first + row, column, item)


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the classes of each column of class labels, or of lists of them, from the features of the table."""
    try:
        features = orjson.loads((metadata or {})[b"huggingface"])["info"]["features"].items()
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return {}
    found = {}
    for column, feature in features:
        while isinstance(feature, list) and len(feature) == 1:
            (feature,) = feature
        if isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
            feature = feature.get("feature")
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            found[column] = names
    return found


def _named(value: Any, names: Sequence[str]) -> Any:
    """The name of a class label, or of each in a list of them; None for -1, which stands for an unknown class."""
    if isinstance(value, list):
        return [_named(entry, names) for entry in value]
    if not isinstance(value, int) or isinstance(value, bool) or value >= len(names):
        return value
    return names[value] if value >= 0 else None


def _rows(
    path: str, batch: pa.RecordBatch, locate: _InTable, pictures: Sequence[str], at_once: int
) -> Iterator[_TableRow | RejectedError]:
    kinds = {field.name: str(field.type) for field in batch.schema}
    columns = {name: batch.column(name) for name, kind in kinds.items() if name in pictures or "binary" not in kind}
    labels = class_names(batch.schema.metadata)
    with arrow_damage(path):
        for column in columns.values():
            column.validate(full=True)
    long = _long_rows(columns)
    if long:  # found before an object is made of each entry, which may take more memory than there is
        for row in range(len(batch)):
            if row in long:
                yield too_many_values()
            else:
                yield from _rows(path, batch.slice(row, 1), partial(_later, locate, row), pictures, at_once)
        return
    rows = max(1, min(_CHUNK_ROWS, at_once, _CHUNK_VALUES // max(1, len(columns))))
    for start in range(0, len(batch), rows):
        with arrow_damage(path):
            chunk = {name: column.slice(start, rows) for name, column in columns.items()}
            paths = {name: _paths(cells) for name, cells in chunk.items() if name in pictures}
            values = {name: cells.to_pylist() for name, cells in chunk.items() if name not in pictures}
        for name in labels.keys() & values.keys():
            values[name] = [_named(value, labels[name]) for value in values[name]]
        for row in range(min(rows, len(batch) - start)):
            cells_of_row = {name: paths[name][row] if name in paths else _UNREAD for name in pictures}
            shown = sum(len(cell) for _, cell in cells_of_row.values())
            if shown > MAX_MEDIA:
                yield RejectedError(
                    "too_many_pictures", f"the row holds {shown:,} pictures; the limit is {MAX_MEDIA:,}"
                )
                continue
            media, named = _media(path, cells_of_row, partial(locate, start + row))
            yield {name: json_value(cells[row]) for name, cells in values.items()}, media, named


def _later(locate: _InTable, first: int, row: int, column: str, item: _Item) -> InArrow | InParquet:
    return locate(first + row, column, item)


def _long_rows(columns: Mapping[str, pa.Array]) -> set[int]:
    """The rows whose lists have more than `MAX_VALUES` entries together."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = [
        column for column in columns.values() if pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    ]
    if sum(len(column.flatten()) for column in lists) <= MAX_VALUES:
        return set()
    totals = sum(pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype("int64") for column in lists)
    return {int(row) for row in (totals > MAX_VALUES).nonzero()[0]}


def _paths(cells: pa.Array) -> list[tuple[bool, _Paths]]:
    """For each cell, whether it holds a list of pictures, and their paths."""
    import pyarrow as pa

    if not pa.types.is_list(cells.type) and not pa.types.is_large_list(cells.type):
        is_valid = cells.is_valid().to_pylist()
        return [(False, [one] if valid else []) for one, valid in zip(_paths_of(cells), is_valid, strict=True)]
    entries = (cell.values for cell in cells)
    return [(True, [] if entry is None else _paths_of(entry)) for entry in entries]


def _paths_of(pictures: pa.Array) -> _Paths:
    import pyarrow as pa

    if not pa.types.is_struct(pictures.type):
        return [(None, False)] * len(pictures)
    has_path = pictures.type.get_field_index("path") >= 0
    said = pictures.field("path").to_pylist() if has_path else [None] * len(pictures)
    paths = [path if isinstance(path, str) else None for path in said]
    if pictures.type.get_field_index("bytes") < 0:  # not read: all are there
        return [(path, False) for path in paths]
    without_bytes = pictures.field("bytes").is_null().to_pylist()
    return [(path, bool(path) and absent) for path, absent in zip(paths, without_bytes, strict=True)]


def _media(
    table: str, columns: Mapping[str, tuple[bool, _Paths]], locate: Callable[[str, _Item], InArrow | InParquet]
) -> tuple[tuple[MediaRef, ...], tuple[int, ...]]:
    media: list[MediaRef] = []
    named: list[int] = []
    for column, (is_list, paths) in columns.items():
        for item, (path, is_alone) in enumerate(paths):
            origin = (path or f"{table}#{column}")[:_MAX_ORIGIN]
            kind = named_kind(origin) or ("video" if _CLIP_NAMES.match(column) else "image")
            if is_alone:
                named.append(len(media))
            media.append(MediaRef(kind=kind, parts=(locate(column, item if is_list else None),), origin=origin))
    return tuple(media), tuple(named)


def json_value(value: Any) -> Any:
    """``value`` as JSON can hold it: dates, decimals and infinities as they print, NaN as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
