"""The build's memory on disk: a SQLite file in the work folder that holds what has been imported and encoded.

One process writes it, stage after stage; once the media are encoded it never changes again, and any number of workers
read it without locks. Memory stays at SQLite's page cache whatever the number of triplets.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mimicit.sources.base import (
    InArrow,
    InFile,
    InJson,
    InParquet,
    InTar,
    InText,
    Locator,
    MediaRef,
    Named,
    NoteKind,
    Reject,
)

__all__ = ["CATALOG_NAME", "Catalog", "locator_from_json", "locator_to_json", "ref_from_json", "ref_to_json"]

CATALOG_NAME: Final = "catalog.sqlite"

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS stage(name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, format TEXT NOT NULL, why TEXT NOT NULL,
    records INTEGER          -- read from it, whatever became of them
);
-- Pictures that triplets name by id.
CREATE TABLE IF NOT EXISTS picture(
    source INTEGER NOT NULL, id TEXT NOT NULL, locator TEXT NOT NULL, PRIMARY KEY(source, id)
) WITHOUT ROWID;
-- The publisher's list of queries, where there is one.
CREATE TABLE IF NOT EXISTS train(
    source INTEGER NOT NULL, id TEXT NOT NULL, related TEXT NOT NULL, PRIMARY KEY(source, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS triplet(
    seq INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    id TEXT NOT NULL,
    place TEXT NOT NULL,
    instruction TEXT NOT NULL,
    answer TEXT NOT NULL,
    conversation TEXT,
    turn INTEGER NOT NULL,
    is_query INTEGER NOT NULL,
    related TEXT NOT NULL,   -- JSON list of ids
    meta BLOB NOT NULL,      -- JSON object
    refs TEXT NOT NULL,      -- JSON list of media references, as imported
    parts TEXT NOT NULL,     -- JSON list of [media shown, text] of an interleaved document, else []
    media TEXT,              -- JSON list of medium ids, once resolved; NULL: rejected
    shown TEXT,              -- identifies the media by content, once they are encoded; NULL: rejected
    rank INTEGER,            -- place among the usable triplets of the source; NULL: rejected or merged
    merged_into INTEGER      -- the triplet that shows and says the same and stands for this one
);
CREATE UNIQUE INDEX IF NOT EXISTS triplet_id ON triplet(source, id);
CREATE TABLE IF NOT EXISTS medium(
    id INTEGER PRIMARY KEY,
    ref TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    content TEXT,            -- identifies the stored bytes; NULL: rejected
    media BLOB,              -- the Media as JSON
    file TEXT, offsets TEXT, sizes TEXT,  -- where its stored files lie, relative to the work folder
    width INTEGER, height INTEGER, bytes INTEGER,  -- of the original
    fingerprint BLOB,        -- of how it looks, where pictures are compared
    reason TEXT, detail TEXT,
    -- Sorts media that lie in cells of tables by file, row group or batch, column, row, and entry; else empty.
    cell TEXT NOT NULL AS (
        CASE WHEN json_extract(ref, '$.parts[0][0]') IN ('parquet', 'arrow') THEN printf(
            '%s %012d %s %012d %012d', json_extract(ref, '$.parts[0][1]'), json_extract(ref, '$.parts[0][2]'),
            json_extract(ref, '$.parts[0][4]'), json_extract(ref, '$.parts[0][3]'), json_extract(ref, '$.parts[0][5]')
        ) ELSE '' END
    ) VIRTUAL
);
CREATE INDEX IF NOT EXISTS medium_todo ON medium(cell, id) WHERE done = 0;
CREATE INDEX IF NOT EXISTS medium_content ON medium(content, id) WHERE content IS NOT NULL;
CREATE TABLE IF NOT EXISTS reject(
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL, scope TEXT NOT NULL, stage TEXT NOT NULL, reason TEXT NOT NULL,
    locator TEXT NOT NULL, record TEXT NOT NULL, detail TEXT NOT NULL
);
-- How many files the records of a source have found in which way (see `mimicit.sources.finding`).
CREATE TABLE IF NOT EXISTS found(
    source INTEGER NOT NULL, way TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY(source, way)
) WITHOUT ROWID;
-- What is worth saying though no record is lost by it.
CREATE TABLE IF NOT EXISTS note(
    source INTEGER NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL, first TEXT NOT NULL, PRIMARY KEY(source, kind)
) WITHOUT ROWID;
"""


class Catalog:
    """A connection to the catalog of one work folder; ``writable=False`` for workers, once it is frozen."""

    def __init__(self, work: Path, *, writable: bool) -> None:
        path = work / CATALOG_NAME
        if writable:
            self.db = sqlite3.connect(path, isolation_level=None)
            self.db.execute("PRAGMA journal_mode = TRUNCATE")
            self.db.execute("PRAGMA synchronous = NORMAL")
            self.db.executescript(_TABLES)
        else:
            # immutable: nobody writes any more, so no locks are needed (and shared file systems work).
            self.db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
        self.db.execute("PRAGMA cache_size = -65536")  # 64 MiB
        self.db.execute("PRAGMA temp_store = FILE")
        self._names: dict[int, str] = {}

    def close(self) -> None:
        """Close the connection."""
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside becomes durable together, or not at all."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def is_done(self, stage: str) -> bool:
        """Whether ``stage`` was completed, by this process or an earlier one."""
        return self.db.execute("SELECT 1 FROM stage WHERE name = ?", (stage,)).fetchone() is not None

    def mark_done(self, stage: str) -> None:
        """Note inside a transaction that ``stage`` is complete."""
        self.db.execute("INSERT OR IGNORE INTO stage VALUES (?)", (stage,))

    def source_name(self, number: int) -> str:
        """The name of source ``number``."""
        if number not in self._names:
            self._names = dict(self.db.execute("SELECT id, name FROM source"))
        return self._names[number]

    def add_reject(self, source: int, reject: Reject) -> None:
        """Store one reject."""
        self.db.execute(
            "INSERT INTO reject(source, scope, stage, reason, locator, record, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (source, reject.scope, reject.stage, reject.reason, reject.locator, reject.id, reject.detail),
        )

    def add_note(self, source: int, kind: NoteKind, place: str) -> None:
        """Count one note; of each kind, the place of the first is kept."""
        self.db.execute(
            "INSERT INTO note(source, kind, count, first) VALUES (?, ?, 1, ?)"
            " ON CONFLICT(source, kind) DO UPDATE SET count = count + 1",
            (source, kind, place),
        )


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
