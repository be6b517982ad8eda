"""The triplets in the samples of shards, each once, gathered on disk while the shards are read.

A triplet is repeated in every sample that it is context of. Whether it is ever a query, and what it shows, is known
only after the last sample. SQLite holds the triplets in a private file; memory is limited to its page cache.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import orjson

from mimicit.errors import CorruptShardError, RejectedError
from mimicit.records import MediaKind, Sample, Triplet
from mimicit.sources.items import InArrow, InParquet, InTar, MediaRef, RawTriplet
from mimicit.sources.records.text import checked_answer, checked_id, checked_instruction, checked_meta
from mimicit.sources.shown_media import About, agree, media_of_triplets

_TABLE: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384;
CREATE TABLE triplet(
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,  -- of its sample if it is ever a query, else of the first sample that shows it
    place TEXT NOT NULL,
    instruction TEXT NOT NULL,
    answer TEXT NOT NULL,
    media TEXT NOT NULL,      -- JSON list of _Shown
    certain INTEGER NOT NULL,
    is_query INTEGER NOT NULL DEFAULT 0,
    related TEXT NOT NULL DEFAULT '[]',
    meta TEXT NOT NULL DEFAULT '{}',
    parts TEXT NOT NULL DEFAULT '[]'
);
"""
_COLUMNS: Final = "id, place, instruction, answer, media, is_query, related, meta, parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTriplet:
    """One triplet as the samples describe it; the fields are those of `RawTriplet`."""

    id: str
    place: str
    instruction: str
    answer: str
    media: tuple[MediaRef, ...]
    is_query: bool
    related: tuple[str, ...]
    meta: Mapping[str, Any]
    parts: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class _Shown:
    """One medium: what it is, and one of the places where it lies, which does not count for equality."""

    kind: MediaKind
    sha256: tuple[str, ...]
    timestamps_s: tuple[float, ...] | None
    duration_s: float | None
    origin: str = field(compare=False)
    parts: tuple[InTar | InParquet | InArrow, ...] = field(compare=False)


class ShardTriplets:
    """The triplets of all samples added so far; iterating gives them in the order of their samples."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a private file, deleted with the connection
        self._db.executescript(_TABLE)
        self._db.execute("BEGIN")
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def add(self, sample: Sample, media: Sequence[MediaRef], place: str) -> None:
        """Note the triplets of ``sample``, whose media lie at ``media``.

        `RejectedError` ``duplicate_id`` if its query was the query of an earlier sample; its context is still noted.
        """
        self._number += 1
        shown = [_shown(ref, stored.sha256) for ref, stored in zip(media, sample.media, strict=True)]
        if sample.query.relation == "document":
            parts = [[len(triplet.media), triplet.answer] for triplet in sample.triplets]
            self._add(
                Triplet(id=sample.id, role="query", media=(), instruction="", answer=""),
                About(tuple(shown), True),
                place,
            )
            self._mark_query(sample, place, parts)
            return
        for triplet, about in zip(sample.triplets, media_of_triplets(sample), strict=True):
            self._add(triplet, About(tuple(shown[index] for index in about.media), about.certain), place)
        self._mark_query(sample, place, [])

    def __iter__(self) -> Iterator[StoredTriplet]:
        self._db.execute("CREATE INDEX IF NOT EXISTS triplet_number ON triplet(number, id)")
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM triplet ORDER BY number, id"):
            id, place, instruction, answer, media, is_query, related, meta, parts = row
            yield StoredTriplet(
                id=id,
                place=place,
                instruction=instruction,
                answer=answer,
                media=tuple(map(_ref, _shown_from_json(media))),
                is_query=bool(is_query),
                related=tuple(orjson.loads(related)),
                meta=orjson.loads(meta),
                parts=tuple((count, text) for count, text in orjson.loads(parts)),
            )

    def _add(self, triplet: Triplet, about: About[_Shown], place: str) -> None:
        row = self._db.execute("SELECT media, certain FROM triplet WHERE id = ?", (triplet.id,)).fetchone()
        if row is None:
            self._db.execute(
                "INSERT INTO triplet(id, number, place, instruction, answer, media, certain)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (triplet.id, self._number, place, triplet.instruction, triplet.answer, *_columns(about)),
            )
            return
        before = About(_shown_from_json(row[0]), bool(row[1]))
        try:
            after = agree(before, about)
        except CorruptShardError:
            return  # shards of several builds: the first wins
        if after != before:
            self._db.execute("UPDATE triplet SET media = ?, certain = ? WHERE id = ?", (*_columns(after), triplet.id))

    def _mark_query(self, sample: Sample, place: str, parts: list[list[Any]]) -> None:
        related = [triplet.id for triplet in reversed(sample.context)] if not parts else []
        changed = self._db.execute(
            "UPDATE triplet SET is_query = 1, number = ?, place = ?, instruction = ?, answer = ?, related = ?,"
            " meta = ?, parts = ? WHERE id = ? AND NOT is_query",
            (
                self._number,
                place,
                sample.query.instruction,
                sample.query.answer if not parts else "",
                orjson.dumps(related).decode(),
                orjson.dumps(dict(sample.meta)).decode(),
                orjson.dumps(parts).decode(),
                sample.id if parts else sample.query.id,
            ),
        ).rowcount
        if not changed:
            raise RejectedError(
                "duplicate_id", f"{sample.query.id!r} is the query of an earlier sample, which keeps it"
            )


def _shown(ref: MediaRef, sha256: tuple[str, ...]) -> _Shown:
    parts = tuple(part for part in ref.parts if isinstance(part, InTar | InParquet | InArrow))
    return _Shown(ref.kind, sha256, ref.timestamps_s, ref.duration_s, ref.origin, parts)


def _ref(shown: _Shown) -> MediaRef:
    return MediaRef(
        kind=shown.kind,
        parts=shown.parts,
        origin=shown.origin,
        timestamps_s=shown.timestamps_s,
        duration_s=shown.duration_s,
    )


def _columns(about: About[_Shown]) -> tuple[str, bool]:
    return orjson.dumps(about.media).decode(), about.certain


def _shown_from_json(text: str) -> tuple[_Shown, ...]:
    return tuple(
        _Shown(
            kind=value["kind"],
            sha256=tuple(value["sha256"]),
            timestamps_s=None if value["timestamps_s"] is None else tuple(value["timestamps_s"]),
            duration_s=value["duration_s"],
            origin=value["origin"],
            parts=tuple(map(_part_from_json, value["parts"])),
        )
        for value in orjson.loads(text)
    )


def _part_from_json(value: dict[str, Any]) -> InTar | InParquet | InArrow:
    if "offset" in value:
        return InTar(**value)
    item = value.pop("item")
    return (InArrow if "batch" in value else InParquet)(**value, item=tuple(item) if isinstance(item, list) else item)


def check_shown(sample: Sample, name: str) -> None:
    """Raise `RejectedError` if the triplets of ``sample``, called ``name``, do not show each medium once, in order."""
    if [index for triplet in sample.triplets for index in triplet.media] != list(range(len(sample.media))):
        raise RejectedError("schema", f"{name}: its triplets do not show each of its media once, in order")


def record_of(triplet: StoredTriplet) -> RawTriplet:
    """The record of ``triplet``, whose texts and fields are checked like those of any other file."""
    parts = tuple((count, checked_answer(text)) for count, text in triplet.parts)
    return RawTriplet(
        id=checked_id(triplet.id),
        place=triplet.place,
        media=triplet.media,
        instruction=checked_instruction(triplet.instruction),
        answer="" if parts else checked_answer(triplet.answer),
        related=tuple(checked_id(id, "related") for id in triplet.related),
        is_query=triplet.is_query,
        meta=checked_meta(triplet.meta),
        parts=parts,
    )
