"""Resolve: find what the records of all parts refer to, by joins.

Equal ids are told apart or rejected, pictures that are named are found, the publisher's list says which records are
queries, related ids that no record has are reported, and every distinct medium gets a number. Only ids and numbers go
through the joins; texts stay where the import has put them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import orjson
import pyarrow as pa

from mimicit.pipeline.joins import insert, joins, ordered, rows_of, with_lists
from mimicit.pipeline.parts import ColumnFile, batches_of_rows, numbered, write_columns
from mimicit.pipeline.rejects import Phase, RejectWriter, rejects_path
from mimicit.pipeline.stages.importing import Part, import_parts, part_table
from mimicit.pipeline.tables import MEDIA_REFERENCES, MEDIA_REFERENCES_NAME, RESOLVED, RESOLVED_NAME, UNITS, UNITS_NAME
from mimicit.schema import canonical_json
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Reject, place_in_table

_OPEN_PARTS: Final = 64
_LEAST_IN_UNIT: Final = 128
_MOST_IN_UNIT: Final = 1024
_LEAST_UNITS: Final = 128  # units grow beyond the least size only if there are more than this many
# Records and references are numbered through all parts: n and r. A record shows at most 1,000 media, so n * 1024 and
# the place of a medium order all mentions.
_TABLES: Final = """
CREATE TABLE records(n BIGINT, part INTEGER, row BIGINT, source INTEGER, item BIGINT, id VARCHAR, family VARCHAR,
    says BLOB, is_query BOOLEAN, related VARCHAR[], refs BIGINT[], fault VARCHAR);
CREATE TABLE refs(r BIGINT, text VARCHAR, in_table VARCHAR, is_video BOOLEAN, is_named BOOLEAN);
CREATE TABLE names(r BIGINT, source INTEGER, place INTEGER, rank INTEGER, id VARCHAR);
CREATE TABLE pictures(source INTEGER, part INTEGER, item BIGINT, id VARCHAR, locator VARCHAR, place VARCHAR);
CREATE TABLE training(source INTEGER, part INTEGER, item BIGINT, id VARCHAR, related VARCHAR[], place VARCHAR);
CREATE TABLE decided(n BIGINT, id VARCHAR);
CREATE TABLE located(r BIGINT, text VARCHAR, in_table VARCHAR, is_video BOOLEAN, missing VARCHAR);
"""
# The columns of each table of a part, as they are inserted into its table above.
_COLUMNS: Final = {
    "records": """before_n + n, part, n, source, item, id,
        CASE WHEN says IS NOT NULL AND contains(id, '~') THEN regexp_replace(id, '(~[0-9]+)+$', '') ELSE id END,
        says, is_query, related, list_transform("references", lambda r: r + before_r), fault""",
    "references": "before_r + n, ref, place_in_table, is_video, is_named",
    "names": "before_r + reference, source, place, rank, id",
    "pictures": "source, part, item, id, locator, place",
    "training": "source, part, item, id, related, place",
}
_TEXTS: Final = ("instruction", "answer", "meta", "parts", "conversation", "fault_detail")
_TABLE_OF: Final = {"references": "refs"}
# Records whose ids are equal, or differ only in an ending like ~2, as is added to tell equal ids apart.
_REPEATED: Final = """
SELECT source, family, n, part, row, item, id, says FROM records
SEMI JOIN (SELECT source, family FROM records GROUP BY ALL HAVING count(*) > 1) AS repeated USING (source, family)
ORDER BY source, family, n
"""
_DECIDED: Final = pa.schema([("n", pa.int64()), ("id", pa.large_string())])  # the new id; null: a duplicate
_KEYS: Final = """
CREATE TABLE keys AS SELECT n, records.source, coalesce(decided.id, records.id) AS id
FROM records LEFT JOIN decided USING (n) WHERE decided.n IS NULL OR decided.id IS NOT NULL
"""
_RANKED: Final = """
CREATE TABLE ranked_{0} AS
SELECT *, row_number() OVER (PARTITION BY source, id ORDER BY part, item) AS nth FROM {0}
"""
_NAMED: Final = """
SELECT refs.r, refs.text, refs.is_video, found.place, found.locator
FROM refs LEFT JOIN (
    SELECT names.r, names.place, names.rank, pictures.locator
    FROM names JOIN ranked_pictures AS pictures ON pictures.source = names.source AND pictures.id = names.id
    WHERE pictures.nth = 1
) AS found ON found.r = refs.r
WHERE refs.is_named ORDER BY refs.r, found.place, found.rank
"""
_LOCATED: Final = pa.schema(
    [
        ("r", pa.int64()),
        ("text", pa.large_string()),  # null if a picture is missing,
        ("in_table", pa.large_string()),
        ("is_video", pa.bool_()),
        ("missing", pa.large_string()),  # with this id
    ]
)
_STEPS: Final = (
    """
    CREATE VIEW places AS
    SELECT r, text, in_table, is_video FROM refs WHERE NOT is_named
    UNION ALL SELECT r, text, in_table, is_video FROM located WHERE text IS NOT NULL
    """,
    """
    CREATE TABLE mentions AS
    SELECT n, unnest(refs) AS r, 1024 * n + generate_subscripts(refs, 1) AS place
    FROM records SEMI JOIN keys USING (n) WHERE fault IS NULL AND len(refs) > 0
    """,
    """
    CREATE TABLE dangling AS
    SELECT n, place, missing FROM mentions JOIN located USING (r) WHERE text IS NULL
    QUALIFY row_number() OVER (PARTITION BY n ORDER BY place) = 1
    """,
    # Media are numbered by their first mention. In a record that lacks a picture, only mentions before that one count.
    """
    CREATE TABLE media AS
    SELECT row_number() OVER (ORDER BY first) - 1 AS number, text, in_table, is_video FROM (
        SELECT text, in_table, bool_or(is_video) AS is_video, min(first) AS first
        FROM places JOIN (
            SELECT r, min(mentions.place) AS first FROM mentions LEFT JOIN dangling USING (n)
            WHERE coalesce(mentions.place < dangling.place, true) GROUP BY r
        ) AS uses USING (r)
        GROUP BY text, in_table
    )
    """,
    # If the publisher lists the queries, only those are queries, with the context listed there.
    """
    CREATE TABLE asked AS
    SELECT keys.n, keys.source, keys.id, records.part, records.row, records.fault,
        CASE WHEN listed.source IS NULL THEN records.is_query ELSE training.id IS NOT NULL END AS is_query,
        CASE WHEN training.id IS NULL THEN records.related ELSE training.related END AS related
    FROM keys JOIN records USING (n)
    LEFT JOIN (SELECT DISTINCT source FROM training) AS listed ON listed.source = keys.source
    LEFT JOIN ranked_training AS training
        ON training.source = keys.source AND training.id = keys.id AND training.nth = 1
    """,
)
_UNKNOWN_QUERIES: Final = """
SELECT source, id FROM ranked_training ANTI JOIN keys USING (source, id) WHERE nth = 1 ORDER BY source, id
"""
_UNKNOWN_RELATED: Final = """
SELECT source, part, row, id, place, name FROM (
    SELECT *, unnest(related) AS name, generate_subscripts(related, 1) - 1 AS place
    FROM asked WHERE len(related) > 0
) AS named ANTI JOIN keys ON keys.source = named.source AND keys.id = named.name
ORDER BY n, place
"""
_FAULTY: Final = """
SELECT source, part, row, id, missing FROM asked LEFT JOIN dangling USING (n)
WHERE fault IS NOT NULL OR missing IS NOT NULL ORDER BY n
"""
_MEDIA: Final = "SELECT text AS ref FROM media ORDER BY number"
# A unit is {size} pictures, or 16 clips. Tables are only read forwards, so media in tables are sorted by their places.
_UNITS: Final = """
SELECT CAST((sum(cost) OVER before - cost) // {size} AS BIGINT) AS unit, number
FROM (SELECT number, in_table, CASE WHEN is_video THEN {size} // 16 ELSE 1 END AS cost FROM media)
WINDOW before AS (ORDER BY in_table, number ROWS UNBOUNDED PRECEDING)
ORDER BY in_table, number
"""
_RESOLVED: Final = """
SELECT n, part, row, source, id, is_query, related
FROM asked ANTI JOIN dangling USING (n) WHERE fault IS NULL ORDER BY n
"""
_SHOWN: Final = """
SELECT n, number
FROM mentions JOIN (SELECT r, number FROM places JOIN media USING (text)) AS numbered USING (r) ORDER BY n, place
"""


def resolve_references(work: Path, specs: Sequence[SourceSpec]) -> None:
    """Write MEDIA_REFERENCES and RESOLVED of all parts, once; ``specs`` are the sources by number."""
    if (work / RESOLVED_NAME).exists():
        return
    parts = import_parts(work)
    with joins(work) as db:
        with RejectWriter(rejects_path(work, "resolve")) as rejects:
            reporter = _Reporter(work, specs, rejects)
            reporter.unreadable(parts)
            filled = _load(db, work, parts)
            insert(db, "decided", batches_of_rows(_decided(rows_of(db, _REPEATED), reporter), _DECIDED))
            db.execute(_KEYS)
            for table in ("pictures", "training"):
                db.execute(_RANKED.format(table))
            if "names" in filled:
                insert(db, "located", batches_of_rows(_located(rows_of(db, _NAMED)), _LOCATED))
            for step in _STEPS:
                db.execute(step)
            if not filled.isdisjoint(("pictures", "training")):
                reporter.repeated(db)
                reporter.unknown_queries(db)
            reporter.faulty(db)
            reporter.unknown_related(db)
        write_columns(work / MEDIA_REFERENCES_NAME, MEDIA_REFERENCES, ordered(db, _MEDIA, MEDIA_REFERENCES))
        write_columns(work / UNITS_NAME, UNITS, ordered(db, _UNITS.format(size=_unit_size(db)), UNITS))
        write_columns(work / RESOLVED_NAME, RESOLVED, with_lists(db, _RESOLVED, RESOLVED, media=_SHOWN))


def _unit_size(db: duckdb.DuckDBPyConnection) -> int:
    """How many pictures are a unit: more if there are more pictures, so that the disk need not sync all the time."""
    media = int(db.execute("SELECT count(*) FROM media").fetchall()[0][0])
    return min(_MOST_IN_UNIT, max(_LEAST_IN_UNIT, media // _LEAST_UNITS))


def open_records(work: Path, part: int) -> ColumnFile:
    """RECORDS of one part."""
    return ColumnFile(part_table(work, part, "records"))


def _load(db: duckdb.DuckDBPyConnection, work: Path, parts: Sequence[Part]) -> set[str]:
    """Fill the tables of the connection from the tables of all ``parts``; returns the names of those that there are."""
    db.execute(_TABLES)
    readable = [part for part in parts if part.summary.unreadable is None]
    before = {"before_n": 0, "before_r": 0}
    constants = {}  # columns of each part
    for part in readable:
        constants[part.number] = {**before, "part": part.number, "source": part.source}
        for name, table in (("before_n", "records"), ("before_r", "references")):
            path = part_table(work, part.number, table)
            before[name] += ColumnFile(path).rows if path.exists() else 0
    filled = set()
    for name, columns in _COLUMNS.items():
        paths = {part.number: part_table(work, part.number, name) for part in readable}
        found = [(path, constants[number]) for number, path in paths.items() if path.exists()]
        insert(db, _TABLE_OF.get(name, name), _batches(found), columns)
        if found:
            filled.add(name)
    return filled


def _batches(tables: Iterable[tuple[Path, Mapping[str, int]]]) -> Iterator[pa.RecordBatch]:
    """All batches of ``tables``, each with its constants as further columns, and without its texts."""
    for path, constants in tables:
        narrow = [column for column in ColumnFile(path).names if column not in _TEXTS]
        for batch in numbered(path, narrow):
            more = [pa.array(np.full(batch.num_rows, value)) for value in constants.values()]
            yield pa.record_batch([*batch.columns, *more], [*batch.schema.names, *constants])


def _decided(rows: Iterable[tuple[Any, ...]], reporter: _Reporter) -> Iterator[tuple[int, str | None]]:
    """(n, new id) of each record whose id an earlier record has; the new id is None if it is a duplicate.

    It is one if it says the same as an earlier record of that id, or if ids of its format do not repeat (``says`` is
    None).
    """
    for _, family in groupby(rows, key=lambda row: row[:2]):
        taken: dict[str, bytes | None] = {}
        runs: dict[str, tuple[int, set[bytes | None]]] = {}
        for source, _, n, part, row, item, id, says in family:
            if id not in taken:
                taken[id] = says
                continue
            new = None if says is None else _new_id(id, says, taken, runs)
            if new is None:
                reporter.duplicate(source, part, row, item, id)
            else:
                taken[new] = says
            yield n, new


def _new_id(
    id: str, says: bytes, taken: dict[str, bytes | None], runs: dict[str, tuple[int, set[bytes | None]]]
) -> str | None:
    """The first of id~2, id~3, ... that is free; None if one before it, or ``id``, says the same.

    ``runs`` maps an id to the number to try next, and to what the records of all earlier numbers say.
    """
    number, said = runs.get(id, (2, {taken[id]}))
    while says not in said and (name := f"{id}~{number}") in taken:
        said.add(taken[name])
        number += 1
    is_new = says not in said
    said.add(says)
    runs[id] = (number + is_new, said)
    return f"{id}~{number}" if is_new else None


def _located(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows of the table ``located``: named references with the places of the pictures they name.

    ``rows`` have one row for each picture that fits a name; its place is None if none fits.
    """
    for (r, text, is_video), matches in groupby(rows, key=lambda row: row[:3]):
        value = orjson.loads(text)
        found: dict[int | None, str] = {}
        for *_, place, locator in matches:
            found.setdefault(place, locator)  # of several that fit, the first of its names
        for place, part in enumerate(value["parts"]):
            if part[0] != "named":
                continue
            if place not in found:
                yield r, None, None, is_video, part[1][0]
                break
            value["parts"][place] = orjson.loads(found[place])
        else:
            yield r, canonical_json(value).decode(), place_in_table(value["parts"][0]), is_video, None


class _Reporter:
    """Writes the rejects of records, pictures and references."""

    def __init__(self, work: Path, specs: Sequence[SourceSpec], rejects: RejectWriter) -> None:
        self._specs = specs
        self._rejects = rejects
        self._records = lru_cache(_OPEN_PARTS)(lambda part: open_records(work, part))

    def unreadable(self, parts: Iterable[Part]) -> None:
        """Reject the sources that could not be read."""
        for part in parts:
            if part.summary.unreadable is not None:
                spec = self._specs[part.source]
                place = spec.files[0] if spec.files else spec.name
                reject = spec.reject("unreadable_source", place=place, detail=part.summary.unreadable, scope="source")
                self._rejects.reject(part.source, Phase.IMPORT, part.number, 0, reject)

    def duplicate(self, source: int, part: int, row: int, item: int, id: str) -> None:
        """Reject a record that has the id of an earlier one."""
        detail = "this id was used before in the source; the first record keeps it"
        reject = self._specs[source].reject("duplicate_id", place=self._place(part, row), id=id, detail=detail)
        self._rejects.reject(source, Phase.IMPORT, part, item, reject)

    def repeated(self, db: duckdb.DuckDBPyConnection) -> None:
        """Reject pictures and entries of the training list whose id came before."""
        pictures = "this picture id was used before in the source; the first picture keeps it"
        entries = "this id stands in the training list before; the first entry counts"
        for table, scope, detail in (("pictures", "media", pictures), ("training", "reference", entries)):
            query = f"SELECT source, part, item, id, place FROM ranked_{table} WHERE nth > 1 ORDER BY part, item"
            for source, part, item, id, place in rows_of(db, query):
                reject = self._specs[source].reject(
                    "duplicate_id",
                    place=place,
                    id=id,
                    detail=detail,
                    scope=scope,
                )
                self._rejects.reject(source, Phase.IMPORT, part, item, reject)

    def unknown_queries(self, db: duckdb.DuckDBPyConnection) -> None:
        """Reject ids of the training list that no record has."""
        detail = "the training list names this id, but no instruction has it"
        for row, (source, id) in enumerate(rows_of(db, _UNKNOWN_QUERIES)):
            spec = self._specs[source]
            reject = spec.reject(
                "dangling_reference", place=f"{spec.files[0]}#{id}", id=id, detail=detail, scope="reference"
            )
            self._rejects.reject(source, Phase.TRAINING, 0, row, reject)

    def faulty(self, db: duckdb.DuckDBPyConnection) -> None:
        """Reject records that name a missing picture, or whose texts the filters leave out."""
        for source, part, row, id, missing in rows_of(db, _FAULTY):
            spec, records = self._specs[source], self._records(part)
            fault = records.text("fault", row)
            if fault:
                reject = Reject(
                    scope="record",
                    stage="filter",
                    reason=fault,
                    source=spec.name,
                    locator=self._place(part, row),
                    id=id,
                    detail=records.text("fault_detail", row),
                )
            else:
                detail = f"picture {missing!r} is in none of the picture files of this source"
                reject = spec.reject("dangling_reference", place=self._place(part, row), id=id, detail=detail)
            self._rejects.reject(source, Phase.RESOLVE, part, row, reject)

    def unknown_related(self, db: duckdb.DuckDBPyConnection) -> None:
        """Reject related ids that no record has; the records lose only these references."""
        for source, part, row, id, place, name in rows_of(db, _UNKNOWN_RELATED):
            detail = f"related[{place}] names {name!r}, which no record of this source has; it is left out"
            reject = self._specs[source].reject(
                "dangling_reference", place=self._place(part, row), id=id, detail=detail, scope="reference"
            )
            self._rejects.reject(source, Phase.RELATED, part, row, reject, place=place)

    def _place(self, part: int, row: int) -> str:
        return self._records(part).text("place", row)
