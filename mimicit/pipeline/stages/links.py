"""Link: find for each usable triplet the turn before it, those that show the same, and related ones, by joins."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mimicit.pipeline.joins import insert, joins, ordered, with_lists
from mimicit.pipeline.parts import ColumnFile, numbered, write_columns
from mimicit.pipeline.tables import LINKS, LINKS_NAME, MERGED_NAME, SAME_MEDIA, SAME_MEDIA_NAME, TRIPLETS_NAME

_TABLES: Final = """
CREATE TABLE triplets(row BIGINT, source INTEGER, id VARCHAR, shown VARCHAR, conversation VARCHAR, turn INTEGER,
    related VARCHAR[]);
CREATE TABLE keys(source INTEGER, id VARCHAR, row BIGINT);
"""
_SAME_MEDIA: Final = """
CREATE TABLE same_media AS
SELECT row, source, shown, row_number() OVER (ORDER BY source, shown, row) - 1 AS place
FROM triplets WHERE shown <> ''
"""
_TURNS: Final = """
CREATE TABLE turns AS
SELECT row, min(row) OVER (PARTITION BY source, conversation) AS conversation,
    lag(row) OVER (PARTITION BY source, conversation ORDER BY turn, row) AS before
FROM triplets WHERE conversation <> ''
"""
_GROUPS: Final = """
CREATE TABLE groups AS
SELECT row, min(place) OVER same AS first, count(*) OVER same AS count
FROM same_media WINDOW same AS (PARTITION BY source, shown)
"""
_RELATED: Final = """
SELECT asked.row, keys.row
FROM (
    SELECT row, source, unnest(related) AS id, generate_subscripts(related, 1) AS place
    FROM triplets WHERE len(related) > 0
) AS asked
JOIN keys ON keys.source = asked.source AND keys.id = asked.id
ORDER BY asked.row, asked.place
"""
_LINKS: Final = """
SELECT triplets.row, coalesce(turns.conversation, -1) AS conversation, coalesce(turns.before, -1) AS turn_before,
    coalesce(groups.first, -1) AS same_media, coalesce(groups.count, 0) AS same_media_count
FROM triplets
LEFT JOIN turns ON turns.row = triplets.row
LEFT JOIN groups ON groups.row = triplets.row
ORDER BY triplets.row
"""
_COLUMNS: Final = ["source", "id", "shown", "conversation", "turn", "related"]


def link_triplets(work: Path) -> None:
    """Write SAME_MEDIA and LINKS of TRIPLETS and MERGED, once."""
    if (work / LINKS_NAME).exists():
        return
    with joins(work) as db:
        db.execute(_TABLES)
        insert(db, "triplets", numbered(work / TRIPLETS_NAME, _COLUMNS))
        db.execute("INSERT INTO keys SELECT source, id, row FROM triplets")
        merged = ColumnFile(work / MERGED_NAME).table(["source", "id", "into"])
        insert(db, "keys", merged.to_batches())
        for step in (_SAME_MEDIA, _TURNS, _GROUPS):
            db.execute(step)
        places = ordered(db, "SELECT row FROM same_media ORDER BY place", SAME_MEDIA)
        write_columns(work / SAME_MEDIA_NAME, SAME_MEDIA, places)
        write_columns(work / LINKS_NAME, LINKS, with_lists(db, _LINKS, LINKS, related=_RELATED))
