"""The items that sources are read into: triplets, pictures, notes, rejects, rows; and where media lie, also as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import orjson

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.schema import canonical_json

MAX_MEDIA: Final = 1_000
"""The most pictures and clips of one record; a sample holds all of them, and those of its context."""

MAX_RELATED: Final = 10_000
"""The most ids that one record may name as its context."""


@dataclass(frozen=True, slots=True)
class InFile:
    """The whole file ``path`` (POSIX form, relative to ``--src``)."""

    path: str


@dataclass(frozen=True, slots=True)
class InJson:
    """Base64 text inside the file ``path``: ``length`` bytes at ``offset`` (between the quotes of a JSON string)."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class InParquet:
    """One cell of the parquet file ``path``: bytes, base64 text, or a picture of `datasets` (``{bytes, path}``).

    ``item`` is an index into a cell that holds a list, or the names and indices that lead deeper into the cell;
    ``None`` is the cell itself, or the only entry of its list.
    """

    path: str
    row_group: int
    row: int
    column: str
    item: int | tuple[str | int, ...] | None = None


@dataclass(frozen=True, slots=True)
class InArrow:
    """One cell of a record batch of the Arrow file ``path`` (stream or file format); otherwise as `InParquet`."""

    path: str
    batch: int
    row: int
    column: str
    item: int | tuple[str | int, ...] | None = None


@dataclass(frozen=True, slots=True)
class InText:
    """Base64 text inside the text file ``path``: ``length`` bytes at ``offset``, as they are written there."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class InTar:
    """A member of the tar file ``path``: its ``size`` bytes at ``offset``, right after its header."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Named:
    """The picture of the same source announced as `Picture` under ``ids[0]``, else ``ids[1]``, ... (known aliases)."""

    ids: tuple[str, ...]


Locator = InFile | InJson | InText | InParquet | InArrow | InTar | Named


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRef:
    """One picture or clip before it is decoded.

    ``parts`` has one locator for a picture or a clip file, and one per frame for a video that is published as
    pictures; only such a video has ``timestamps_s`` (seconds, one per part) and, if its publisher states its length,
    ``duration_s``.
    """

    kind: MediaKind
    parts: tuple[Locator, ...]
    origin: str
    timestamps_s: tuple[float, ...] | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that triplets of the same source name by ``id``; ``place`` says where it stands, for messages."""

    id: str
    locator: Locator
    place: str


class RawTriplet(NamedTuple):
    """One record of a source: a triplet whose media are still references.

    ``place`` says where it stands (``file:line``, ``file#id``, ``file[index]``). ``related`` are ids in the same
    source, in published order. ``conversation`` and ``turn`` (from 0) tie the turns of one talk together.
    ``is_query`` is false for a record that the publisher lists only as context for others.

    Every turn names the media it is about, which are those shown last in its conversation; a sample shows them once.
    So each turn can stand alone, and is rejected by itself if its picture is broken.

    An interleaved web document is one record with ``parts``: pairs of a number of ``media`` to show and the text that
    follows them, in order. Its ``instruction`` and ``answer`` are empty, and it has no context: it becomes a sample by
    itself, with a triplet of relation ``document`` for each part.

    ``meta`` may hold the NaN and infinities of its record; the build makes them null and notes it.
    """

    id: str
    place: str
    media: tuple[MediaRef, ...]
    instruction: str
    answer: str
    related: tuple[str, ...] = ()
    conversation: str | None = None
    turn: int = 0
    is_query: bool = True
    meta: Mapping[str, Any] = MappingProxyType({})
    parts: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TrainEntry:
    """The publisher's choice for one query: the triplet ``id``, with ``related`` as its context, in this order.

    Comes after all triplets of its source. If a source has any entries, they override `RawTriplet.related`, and
    triplets without an entry are context only (``is_query`` false). Either id may name no triplet.
    """

    id: str
    related: tuple[str, ...]
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Something that was left out; the fields are those of ``schemas/reject.json``."""

    scope: Literal["record", "media", "reference", "source"]
    stage: Literal["scan", "import", "media", "filter", "choose"]
    reason: str
    source: str
    locator: str
    id: str
    detail: str


NoteKind = Literal["held_out", "nan_as_null", "shown_first", "shown_once", "tokens_as_words"]
"""What is reported although no record is lost.

``held_out``: the field ``split`` of a record says that it is for validation or test.
``nan_as_null``: NaN or an infinity in a free field became null. ``shown_first``: media for which no text holds a
placeholder are shown before the first turn. ``shown_once``: every turn holds the placeholders of the same media.
``tokens_as_words``: a text holds the name of one of the model's own tokens, such as ``<answer>``.
"""


@dataclass(frozen=True, slots=True)
class Note:
    """Something about the record at ``place`` that loses nothing; the manifest counts it by source and kind."""

    kind: NoteKind
    place: str


class Entry(NamedTuple):
    """What records of the same source look up by ``key``: the answer to a question, the file of a picture, ...

    ``place`` says where it stands, for messages. Of entries with equal keys, the first counts.
    """

    key: str
    value: str
    place: str


Item = Picture | RawTriplet | TrainEntry | Reject | Note

Locate = Callable[[Sequence[str | int]], Locator]
"""Locates the text that these names and indices lead to inside a record; raises `RejectedError`."""


class Row(NamedTuple):
    """One record of a text or table file, before its format is looked at.

    ``fields`` are its values, or why it cannot be read. A picture may be written inside it as text, which ``locate``
    finds in the file. ``media`` are the media that the file itself keeps with the record.
    """

    place: str
    fields: dict[str, Any] | RejectedError
    locate: Locate | None = None
    media: tuple[MediaRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a source that is read by itself: the files ``paths``, in their order.

    A piece of a single JSON or CSV file may be only its bytes ``start`` to ``end``, after ``first`` records of an array
    (``is_array``) or a list, or else after ``first`` lines; a piece of a parquet file, its row groups ``start`` to
    ``end``, after ``first`` rows. With ``is_entries``, it is read for the entries that records look up (see
    `mimicit.sources.format.Join`).
    """

    paths: tuple[str, ...]
    start: int = 0
    end: int | None = None
    first: int = 0
    is_array: bool = False
    is_entries: bool = False


def locator_to_json(locator: Locator) -> list[Any]:
    """A locator as a short JSON list that names its kind first."""
    match locator:
        case InFile(path):
            return ["file", path]
        case InJson(path, offset, length):
            return ["json", path, offset, length]
        case InText(path, offset, length):
            return ["text", path, offset, length]
        case InParquet(path, row_group, row, column, item):
            return ["parquet", path, row_group, row, column, item]
        case InArrow(path, batch, row, column, item):
            return ["arrow", path, batch, row, column, item]
        case InTar(path, offset, size):
            return ["tar", path, offset, size]
        case Named(ids):
            return ["named", list(ids)]


def locator_from_json(value: list[Any]) -> Locator:
    """The inverse of `locator_to_json`."""
    match value:
        case ["file", path]:
            return InFile(path)
        case ["json", path, offset, length]:
            return InJson(path, offset, length)
        case ["text", path, offset, length]:
            return InText(path, offset, length)
        case ["parquet", path, row_group, row, column, item]:
            return InParquet(path, row_group, row, column, tuple(item) if isinstance(item, list) else item)
        case ["arrow", path, batch, row, column, item]:
            return InArrow(path, batch, row, column, tuple(item) if isinstance(item, list) else item)
        case ["tar", path, offset, size]:
            return InTar(path, offset, size)
        case ["named", ids]:
            return Named(tuple(ids))
    raise AssertionError(f"no locator: {value!r}")


def ref_to_json(ref: MediaRef) -> dict[str, Any]:
    """A media reference as JSON."""
    return {
        "kind": ref.kind,
        "parts": [locator_to_json(part) for part in ref.parts],
        "origin": ref.origin,
        "timestamps_s": None if ref.timestamps_s is None else list(ref.timestamps_s),
        "duration_s": ref.duration_s,
    }


def ref_text(value: dict[str, Any]) -> bytes:
    """The reference ``value`` as canonical JSON; `SchemaError` if JSON cannot hold it."""
    if value["timestamps_s"] is None and value["duration_s"] is None:
        try:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)  # no floats, so no NaN
        except orjson.JSONEncodeError:
            pass
    return canonical_json(value)


def ref_from_json(value: dict[str, Any]) -> MediaRef:
    """The inverse of `ref_to_json`."""
    timestamps = value["timestamps_s"]
    return MediaRef(
        kind=value["kind"],
        parts=tuple(locator_from_json(part) for part in value["parts"]),
        origin=value["origin"],
        timestamps_s=None if timestamps is None else tuple(timestamps),
        duration_s=value["duration_s"],
    )


def place_in_table(first: list[Any]) -> str:
    """A sort key for media in cells of tables: file, row group or batch, column, row and entry; empty for others.

    ``first`` is the first part of the reference.
    """
    if first[0] not in ("parquet", "arrow"):
        return ""
    _, path, group, row, column, item = first
    return f"{path} {group:012d} {column} {row:012d} {item if isinstance(item, int) else 0:012d}"
