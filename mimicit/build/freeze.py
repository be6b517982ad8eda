"""From the catalog, once every triplet is known to be usable or not, to the tables that the choice of context reads.

What lies where among the others (turns before, triplets that show the same, related ids) is found by joins on disk.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa

from mimicit.build.catalog import Catalog
from mimicit.build.column_file import ColumnFile, batches_of_rows, write_columns
from mimicit.build.joins import insert, joins, ordered
from mimicit.build.tables import LINKS, MEDIA, SAME_MEDIA, TRIPLETS

__all__ = ["LINKS_NAME", "MEDIA_NAME", "SAME_MEDIA_NAME", "TRIPLETS_NAME", "row_of", "write_tables"]

TRIPLETS_NAME: Final = "triplets.arrow"
LINKS_NAME: Final = "links.arrow"
SAME_MEDIA_NAME: Final = "same-media.arrow"
MEDIA_NAME: Final = "media.arrow"
_KEYS: Final = pa.schema([("source", pa.int32()), ("id", pa.large_string()), ("seq", pa.int64())])
_SAME_MEDIA: Final = """
CREATE TABLE same_media AS
SELECT row, source, shown, row_number() OVER (ORDER BY source, shown, row) - 1 AS place
FROM triplets WHERE shown <> ''
"""
_TURNS: Final = """
CREATE TABLE turns AS
SELECT row, lag(row) OVER (PARTITION BY source, conversation ORDER BY turn, row) AS before
FROM triplets WHERE conversation <> ''
"""
_GROUPS: Final = """
CREATE TABLE groups AS
SELECT row, min(place) OVER same AS first, count(*) OVER same AS count
FROM same_media WINDOW same AS (PARTITION BY source, shown)
"""
_RELATED: Final = """
CREATE TABLE related AS
SELECT asked.row, list(target.row ORDER BY asked.place) AS rows
FROM (
    SELECT row, source, unnest(related) AS id, generate_subscripts(related, 1) AS place
    FROM triplets WHERE len(related) > 0
) AS asked
JOIN keys ON keys.source = asked.source AND keys.id = asked.id
JOIN triplets AS target ON target.seq = keys.seq
GROUP BY asked.row
"""
_LINKS: Final = """
SELECT coalesce(turns.before, -1) AS turn_before, coalesce(groups.first, -1) AS same_media,
    coalesce(groups.count, 0) AS same_media_count, coalesce(related.rows, []) AS related
FROM triplets
LEFT JOIN turns ON turns.row = triplets.row
LEFT JOIN groups ON groups.row = triplets.row
LEFT JOIN related ON related.row = triplets.row
ORDER BY triplets.row
"""


def write_tables(catalog: Catalog, work: Path) -> None:
    """Write TRIPLETS, LINKS, SAME_MEDIA and MEDIA of the frozen ``catalog``; those that are there stay."""
    if not (work / MEDIA_NAME).exists():
        write_columns(work / MEDIA_NAME, MEDIA, batches_of_rows(_media(catalog), MEDIA))
    if not (work / TRIPLETS_NAME).exists():
        write_columns(work / TRIPLETS_NAME, TRIPLETS, batches_of_rows(_triplets(catalog), TRIPLETS))
    if not (work / LINKS_NAME).exists():
        _write_links(catalog, work)


def row_of(triplets: ColumnFile, seq: int) -> int:
    """The row of TRIPLETS whose place among all records is ``seq``."""
    return bisect_left(range(triplets.rows), seq, key=lambda row: triplets.number("seq", row))


def _triplets(catalog: Catalog) -> Iterator[tuple[Any, ...]]:
    rows = catalog.db.execute(
        "SELECT seq, source, id, instruction, answer, meta, media, shown, parts, conversation, turn, is_query, related"
        " FROM triplet WHERE rank IS NOT NULL ORDER BY seq"
    )
    for seq, source, id, instruction, answer, meta, media, shown, parts, conversation, turn, is_query, related in rows:
        yield (
            *(seq, source, id, instruction, answer, meta),
            orjson.loads(media),
            shown,
            b"" if parts == "[]" else parts.encode(),
            conversation or "",
            turn,
            bool(is_query),
            orjson.loads(related),
        )


def _media(catalog: Catalog) -> Iterator[tuple[Any, ...]]:
    """A row for every number up to the largest, also where nothing is left to show."""
    last = -1
    rows = catalog.db.execute(
        "SELECT id, media, file, offsets, sizes, fingerprint FROM medium WHERE content IS NOT NULL ORDER BY id"
    )
    for number, media, file, offsets, sizes, fingerprint in rows:
        yield from ((None,) * len(MEDIA) for _ in range(last + 1, number))
        yield media, file, orjson.loads(offsets), orjson.loads(sizes), fingerprint
        last = number


def _write_links(catalog: Catalog, work: Path) -> None:
    columns = ["seq", "source", "shown", "conversation", "turn", "related"]
    known = catalog.db.execute(
        "SELECT source, id, coalesce(merged_into, seq) FROM triplet"
        " WHERE rank IS NOT NULL OR merged_into IS NOT NULL ORDER BY seq"
    )
    with joins(work) as db:
        db.register("columns", ColumnFile(work / TRIPLETS_NAME).table(columns))
        db.execute("CREATE TABLE triplets AS SELECT row_number() OVER (ORDER BY seq) - 1 AS row, * FROM columns")
        db.execute("CREATE TABLE keys(source INTEGER, id VARCHAR, seq BIGINT)")
        insert(db, "keys", batches_of_rows(known, _KEYS))
        for step in (_SAME_MEDIA, _TURNS, _GROUPS, _RELATED):
            db.execute(step)
        places = ordered(db, "SELECT row FROM same_media ORDER BY place", SAME_MEDIA)
        write_columns(work / SAME_MEDIA_NAME, SAME_MEDIA, places)
        write_columns(work / LINKS_NAME, LINKS, ordered(db, _LINKS, LINKS))
