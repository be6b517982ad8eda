"""The triplets of a stream of samples, each once, gathered in a SQLite file.

A triplet stands in every sample that it is context of; only after the last sample is it known whether it is ever a
query, what it shows, and what comes before it in its conversation. Memory stays at SQLite's page cache.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import orjson

from mimicit.errors import CorruptShardError
from mimicit.exporting.base import file_names, is_document
from mimicit.records import Media, MediaKind, Sample, Triplet
from mimicit.sources.shown_media import About, agree, media_of_triplets

_TABLES: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE triplet(
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    place INTEGER NOT NULL,  -- of its sample if it is ever a query, else of the first sample that shows it
    instruction TEXT NOT NULL,
    answer TEXT NOT NULL,
    media TEXT NOT NULL,     -- JSON list of Shown
    certain INTEGER NOT NULL,
    previous TEXT,           -- the turn before it in a conversation
    related TEXT,            -- JSON list of ids, nearest first; NULL: never a query
    meta BLOB,               -- JSON object
    document TEXT,           -- JSON list of [media shown, text]
    PRIMARY KEY(source, id)
);
"""
_INDEXES: Final = """
CREATE INDEX IF NOT EXISTS triplet_place ON triplet(source, place);
CREATE INDEX IF NOT EXISTS triplet_previous ON triplet(source, previous, place) WHERE previous IS NOT NULL;
"""
_COLUMNS: Final = "id, instruction, answer, media, related, meta, document"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One medium by the names of its files (see `file_names`); the times are those of `Media`."""

    kind: MediaKind
    names: tuple[str, ...]
    timestamps_s: tuple[float, ...] | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheredTriplet:
    """One triplet: what it is about, and, if it is a query, the ids of its context, nearest first.

    A document has ``parts`` instead of an instruction and an answer, as `RawTriplet` does.
    """

    id: str
    instruction: str
    answer: str
    media: tuple[Shown, ...]
    is_query: bool
    related: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    parts: tuple[tuple[int, str], ...] = ()


class TripletStore:
    """The triplets of all samples added so far; a context manager that holds one SQLite file in ``scratch``."""

    def __init__(self, scratch: Path) -> None:
        self._db = sqlite3.connect(scratch / "triplets.sqlite", isolation_level=None)
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN")
        self._place = 0

    def __enter__(self) -> TripletStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def add(self, sample: Sample) -> None:
        """Note the triplets of ``sample``. `CorruptShardError` if they contradict those of another sample."""
        self._place += 1
        media = [_shown(medium) for medium in sample.media]
        if is_document(sample):
            self._add_document(sample, media)
            return
        for triplet, about in zip(sample.triplets, media_of_triplets(sample), strict=True):
            self._add_triplet(sample.source, triplet, About(tuple(media[i] for i in about.media), about.certain))
        related = [triplet.id for triplet in reversed(sample.context)]
        self._mark_query(sample, related)
        conversation = [triplet.id for triplet in sample.context if triplet.relation == "conversation"]
        for earlier, later in zip(conversation, [*conversation[1:], sample.query.id], strict=False):
            self._db.execute(
                "UPDATE triplet SET previous = ? WHERE source = ? AND id = ?", (earlier, sample.source, later)
            )

    def sources(self) -> list[str]:
        """The names of all sources, sorted."""
        self._db.executescript(_INDEXES)
        return [name for (name,) in self._db.execute("SELECT DISTINCT source FROM triplet ORDER BY source")]

    def triplets(self, source: str) -> Iterator[GatheredTriplet]:
        """The triplets of ``source``: the queries in the order of their samples, the others where they first stood."""
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM triplet WHERE source = ? ORDER BY place, id", (source,)):
            yield _gathered(row)

    def conversations(self, source: str) -> Iterator[list[GatheredTriplet]]:
        """The triplets of ``source`` with the turns of each conversation together, first turn first.

        A triplet without a conversation is a conversation of one. If two turns follow the same turn, the later of them
        begins a conversation of its own.
        """
        heads = self._db.execute(
            f"SELECT {_COLUMNS} FROM triplet AS this WHERE source = ?1 AND (previous IS NULL OR id <> ("
            "SELECT id FROM triplet AS other WHERE other.source = ?1 AND other.previous = this.previous"
            " ORDER BY place, id LIMIT 1)) ORDER BY place, id",
            (source,),
        )
        told = 0
        for head in heads:
            turns = [_gathered(head)]
            while (row := self._turn_after(source, turns[-1].id)) is not None:
                turns.append(_gathered(row))
            told += len(turns)
            yield turns
        (count,) = self._db.execute("SELECT count(*) FROM triplet WHERE source = ?", (source,)).fetchone()
        if told != count:
            raise CorruptShardError(f"{source}: {count - told} turns of conversations follow each other in a circle")

    def _turn_after(self, source: str, id: str) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._db.execute(
            f"SELECT {_COLUMNS} FROM triplet WHERE source = ? AND previous = ? ORDER BY place, id LIMIT 1", (source, id)
        ).fetchone()
        return row

    def _add_triplet(self, source: str, triplet: Triplet, about: About[Shown]) -> None:
        row = self._db.execute(
            "SELECT instruction, answer, media, certain FROM triplet WHERE source = ? AND id = ?", (source, triplet.id)
        ).fetchone()
        if row is None:
            values = (source, triplet.id, self._place, triplet.instruction, triplet.answer)
            self._db.execute(
                "INSERT INTO triplet(source, id, place, instruction, answer, media, certain)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*values, orjson.dumps(about.media).decode(), about.certain),
            )
            return
        if row[:2] != (triplet.instruction, triplet.answer):
            raise _contradiction(source, triplet.id, "says something else in another sample")
        before = About(_shown_from_json(row[2]), bool(row[3]))
        try:
            after = agree(before, about)
        except CorruptShardError as error:
            raise _contradiction(source, triplet.id, str(error)) from None
        if after != before:
            self._db.execute(
                "UPDATE triplet SET media = ?, certain = ? WHERE source = ? AND id = ?",
                (orjson.dumps(after.media).decode(), after.certain, source, triplet.id),
            )

    def _mark_query(self, sample: Sample, related: list[str]) -> None:
        changed = self._db.execute(
            "UPDATE triplet SET related = ?, meta = ?, place = ? WHERE source = ? AND id = ? AND related IS NULL",
            (
                orjson.dumps(related).decode(),
                orjson.dumps(dict(sample.meta)),
                self._place,
                sample.source,
                sample.query.id,
            ),
        ).rowcount
        if not changed:
            raise _contradiction(sample.source, sample.query.id, "is the query of two samples")

    def _add_document(self, sample: Sample, media: list[Shown]) -> None:
        parts = [[len(triplet.media), triplet.answer] for triplet in sample.triplets]
        try:
            self._db.execute(
                "INSERT INTO triplet(source, id, place, instruction, answer, media, certain, related, meta, document)"
                " VALUES (?, ?, ?, '', '', ?, 1, '[]', ?, ?)",
                (
                    sample.source,
                    sample.id,
                    self._place,
                    orjson.dumps(media).decode(),
                    orjson.dumps(dict(sample.meta)),
                    orjson.dumps(parts).decode(),
                ),
            )
        except sqlite3.IntegrityError:
            raise _contradiction(sample.source, sample.id, "is the id of two samples") from None


def _contradiction(source: str, id: str, fault: str) -> CorruptShardError:
    return CorruptShardError(f"{source}: {id!r} {fault}; mimicit verify may say more, or build the folder again")


def _shown(media: Media) -> Shown:
    return Shown(
        kind=media.kind,
        names=tuple(file_names(media)),
        timestamps_s=media.timestamps_s,
        duration_s=media.duration_s,
    )


def _shown_from_json(text: str) -> tuple[Shown, ...]:
    return tuple(
        Shown(
            kind=value["kind"],
            names=tuple(value["names"]),
            timestamps_s=None if value["timestamps_s"] is None else tuple(value["timestamps_s"]),
            duration_s=value["duration_s"],
        )
        for value in orjson.loads(text)
    )


def _gathered(row: tuple[Any, ...]) -> GatheredTriplet:
    id, instruction, answer, media, related, meta, document = row
    return GatheredTriplet(
        id=id,
        instruction=instruction,
        answer=answer,
        media=_shown_from_json(media),
        is_query=related is not None,
        related=() if related is None else tuple(orjson.loads(related)),
        meta={} if meta is None else orjson.loads(meta),
        parts=() if document is None else tuple((count, text) for count, text in orjson.loads(document)),
    )
