"""The order of the samples in the shards: that of the input, or beside those that show the same files.

Where a shard holds each file once, samples that share files should stand in one shard. Each sample goes with the file
of its own that most samples show, and among those with its next most shown file; samples whose contexts overlap so
come together, whatever their number, by nothing but sorting.
"""

from __future__ import annotations

import sqlite3
from typing import Final

__all__ = ["place_samples"]

_COUNT: Final = "CREATE TEMP TABLE shown AS SELECT sha256, count(*) AS samples FROM file GROUP BY sha256"
_ORDER: Final = """
CREATE TEMP TABLE placed AS
WITH ranked AS (
    SELECT file.seq, file.sha256, row_number() OVER (
        PARTITION BY file.seq ORDER BY shown.samples DESC, file.sha256
    ) AS rank
    FROM file JOIN shown USING (sha256)
)
SELECT sample.seq, row_number() OVER (ORDER BY first.sha256, second.sha256, third.sha256, sample.seq) - 1 AS place
FROM sample
LEFT JOIN ranked AS first ON first.seq = sample.seq AND first.rank = 1
LEFT JOIN ranked AS second ON second.seq = sample.seq AND second.rank = 2
LEFT JOIN ranked AS third ON third.seq = sample.seq AND third.rank = 3
"""


def place_samples(db: sqlite3.Connection, *, together: bool) -> None:
    """Give every sample of the plan ``db`` its place, from 0; ``together`` with those that show the same files.

    SQLite sorts on disk, so memory stays at its page cache.
    """
    if not together:
        db.execute("UPDATE sample SET place = seq")
        return
    db.execute(_COUNT)
    db.execute("CREATE UNIQUE INDEX temp.shown_sha256 ON shown(sha256)")
    db.execute(_ORDER)
    db.execute("UPDATE sample SET place = placed.place FROM placed WHERE placed.seq = sample.seq")
    db.execute("DROP TABLE placed")
    db.execute("DROP TABLE shown")
