"""``--retry-rejects``: how many of the records that an earlier build rejected are in now.

They may be since the input was mended, or since a decoder that had crashed or taken too long was tried again.

The folder itself is built anew, so it ends with the bytes of a fresh build; only this count needs the past. The former
table of rejects waits in the work folder until the records have been read again.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from mimicit.build.catalog import Catalog
from mimicit.shards.files import write_atomically

__all__ = ["GIVEN_UP", "Retried", "count_retried", "has_reason", "keep_former_rejects"]

GIVEN_UP: Final = frozenset(("decoder_died", "timeout", "too_much_memory"))
"""The reasons of rejects that another attempt may do without, though the input is the same."""

_FORMER_NAME: Final = "former-rejects.parquet"
_TABLES: Final = """
CREATE TEMP TABLE former(source INTEGER NOT NULL, id TEXT NOT NULL, place TEXT NOT NULL);
CREATE TEMP TABLE used(source INTEGER NOT NULL, place TEXT NOT NULL, PRIMARY KEY(source, place)) WITHOUT ROWID;
CREATE TEMP TABLE out(
    source INTEGER NOT NULL, id TEXT NOT NULL, place TEXT NOT NULL, PRIMARY KEY(source, id, place)
) WITHOUT ROWID;
"""
# A record without an id (a line that was no JSON) is known again by its place.
_COUNT_MENDED: Final = """
SELECT count(*) FROM former WHERE NOT EXISTS (
    SELECT 1 FROM out WHERE out.source = former.source AND out.id = former.id AND out.place = former.place
) AND CASE WHEN former.id = '' THEN EXISTS (
    SELECT 1 FROM used WHERE used.source = former.source AND used.place = former.place
) ELSE EXISTS (
    SELECT 1 FROM triplet WHERE triplet.source = former.source AND triplet.id = former.id
    AND (rank IS NOT NULL OR merged_into IS NOT NULL)
) END
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """``former`` records were rejected by the build before; ``mended`` of them are in now."""

    former: int
    mended: int


def has_reason(table: bytes, reasons: Collection[str]) -> bool:
    """Whether a ``rejects.parquet`` has a row with one of the ``reasons``; false where it is unreadable."""
    try:
        with pq.ParquetFile(io.BytesIO(table)) as file:
            batches = file.iter_batches(columns=["reason"])
            return any(not set(reasons).isdisjoint(batch.column(0).to_pylist()) for batch in batches)
    except (pa.ArrowException, OSError, ValueError):
        return False


def keep_former_rejects(work: Path, table: bytes) -> None:
    """Keep the ``rejects.parquet`` of an earlier build for `count_retried`."""
    write_atomically(work / _FORMER_NAME, [table])


def count_retried(work: Path) -> Retried | None:
    """Compare the rejects of the earlier build, if any were kept, with the settled catalog."""
    path = work / _FORMER_NAME
    if not path.exists():
        return None
    catalog = Catalog(work, writable=False)
    try:
        db = catalog.db
        db.executescript(_TABLES)
        numbers = dict(db.execute("SELECT name, id FROM source"))
        former = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["scope", "source", "id", "locator"]):
                rows = [row for row in batch.to_pylist() if row["scope"] == "record"]
                former += len(rows)
                known = [(numbers[r["source"]], r["id"], r["locator"]) for r in rows if r["source"] in numbers]
                db.executemany("INSERT INTO former VALUES (?, ?, ?)", known)
        db.execute("INSERT OR IGNORE INTO out SELECT source, record, locator FROM reject WHERE scope = 'record'")
        db.execute(
            "INSERT OR IGNORE INTO used SELECT source, place FROM triplet WHERE (source, place) IN"
            " (SELECT source, place FROM former WHERE id = '') AND (rank IS NOT NULL OR merged_into IS NOT NULL)"
        )
        (mended,) = db.execute(_COUNT_MENDED).fetchone()
    finally:
        catalog.close()
    return Retried(former=former, mended=mended)
