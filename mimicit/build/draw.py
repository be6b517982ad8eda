"""Draw the queries of a source: a share of them, or at most so many. Records that are not drawn stay usable as context.

Each query has a lot, a hash of the seed and its id. A share takes the lots below it, a limit takes the smallest; so a
larger share or limit only adds queries, and a query's lot depends neither on other records nor on other sources.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Final

__all__ = ["draw_queries", "lot"]

_LOTS: Final = 1 << 63  # what SQLite holds without a sign


def draw_queries(db: sqlite3.Connection, source: int, limit: int | None, weight: float, seed: int) -> None:
    """Keep the share ``weight`` of the usable queries of ``source``, and of these ``limit`` at most."""
    if limit is None and weight >= 1:
        return
    db.execute("CREATE TEMP TABLE IF NOT EXISTS draw(seq INTEGER PRIMARY KEY, lot INTEGER NOT NULL)")
    db.execute("DELETE FROM draw")
    queries = db.execute(
        "SELECT seq, id FROM triplet WHERE source = ? AND rank IS NOT NULL AND is_query ORDER BY seq", (source,)
    )
    db.executemany("INSERT INTO draw VALUES (?, ?)", ((seq, lot(seed, id)) for seq, id in queries))
    if weight < 1:
        db.execute("DELETE FROM draw WHERE lot >= ?", (int(weight * _LOTS),))
    if limit is not None:
        db.execute("DELETE FROM draw WHERE seq IN (SELECT seq FROM draw ORDER BY lot, seq LIMIT -1 OFFSET ?)", (limit,))
    db.execute(
        "UPDATE triplet SET is_query = 0 WHERE source = ? AND is_query AND rank IS NOT NULL"
        " AND seq NOT IN (SELECT seq FROM draw)",
        (source,),
    )


def lot(seed: int, id: str) -> int:
    """63 random bits that depend on the seed and the id alone."""
    digest = hashlib.blake2b(f"{seed}\0lot\0{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % _LOTS
