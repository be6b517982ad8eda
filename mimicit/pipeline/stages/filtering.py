"""Filter, deduplicate and draw: which records are usable, which are merged, and which are queries.

Records are checked in the order of the input, so of several equal records the first stays, whatever the workers did. A
record passes if, in this order: its media are sound and pass the filters of its source; none looks like a picture of a
record that was kept before; it does not say and show the same as one that was kept. Then the queries of each source are
drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mimicit.pipeline.config import BuildConfig, SourceRules
from mimicit.pipeline.joins import insert, joins, ordered
from mimicit.pipeline.parts import ColumnFile, TableWriter, numbered, write_columns
from mimicit.pipeline.rejects import Phase, RejectWriter, rejects_path
from mimicit.pipeline.stages.passing import PASSED, SAMPLING_KEYS, FilteredSource, Judge, of_records
from mimicit.pipeline.stages.resolve import open_records
from mimicit.pipeline.tables import MERGED, MERGED_NAME, RECORDS, TRIPLETS, TRIPLETS_NAME
from mimicit.progress import Progress
from mimicit.sources.items import Reject

_PASSED_NAME: Final = "passed.arrow"
_FATES_NAME: Final = "fates.arrow"
_FATES: Final = pa.schema(
    [
        # One for each row of PASSED.
        ("keeper", pa.int64()),  # the row of PASSED that stands for it: itself, unless it is merged
        ("into", pa.int64()),  # the row of the keeper in TRIPLETS
        ("is_query", pa.bool_()),
    ]
)
_AFTER_MEDIA: Final = 1 << 20  # the place of a merged record among the rejects of its row
_OF_RECORDS: Final = [
    name for name in TRIPLETS.names if name in RECORDS.names and name not in ("id", "is_query", "related")
]
# A merged record is no query; its keeper is one if either was. A source that is not in ``draws`` keeps all its queries.
_DECIDE: Final = """
WITH merged AS (
    SELECT n, source, sampling_key, min(n) OVER equal AS keeper, bool_or(is_query) OVER equal AS is_query
    FROM passed WINDOW equal AS (PARTITION BY coalesce(says, CAST(CAST(n AS VARCHAR) AS BLOB)))
),
kept AS (
    SELECT n, sampling_key, most, is_query AND coalesce(sampling_key <= last_key, true) AS is_query, merged.source,
        row_number() OVER (ORDER BY n) - 1 AS row
    FROM merged LEFT JOIN draws ON draws.source = merged.source WHERE keeper = n
),
drawn AS (
    SELECT n, row, is_query AND coalesce(
        row_number() OVER (PARTITION BY source, is_query ORDER BY sampling_key, n) <= most, true
    ) AS is_query
    FROM kept
)
SELECT keeper, drawn.row AS into, merged.n = keeper AND drawn.is_query AS is_query
FROM merged JOIN drawn ON drawn.n = merged.keeper ORDER BY merged.n
"""


def filter_triplets(work: Path, rules: Mapping[str, SourceRules], config: BuildConfig, progress: Progress) -> None:
    """Write TRIPLETS and MERGED, once; ``rules`` maps each source's name to its rules, in the order of the numbers."""
    if (work / TRIPLETS_NAME).exists():
        return
    sources = [FilteredSource(name=name, rules=rule) for name, rule in rules.items()]
    write_columns(work / TRIPLETS_NAME, TRIPLETS, _triplets(work, sources, config, progress))
    for name in (_PASSED_NAME, _FATES_NAME):
        (work / name).unlink(missing_ok=True)


def _triplets(
    work: Path, sources: Sequence[FilteredSource], config: BuildConfig, progress: Progress
) -> Iterator[pa.RecordBatch]:
    """The rows of TRIPLETS; the rejects and MERGED exist only once all rows have been taken."""
    with RejectWriter(rejects_path(work, "filter")) as rejects, TableWriter(work / MERGED_NAME, MERGED) as merged:
        passed = Judge(work, sources, config, rejects).passed(progress)
        if config.duplicate_triplets != "keep" or any(source.draws for source in sources):
            write_columns(work / _PASSED_NAME, PASSED, passed)
            _decide(work, sources)
            _write_merged(work, sources, merged, rejects)
            passed = _kept(work)
        records = lru_cache(1)(lambda part: open_records(work, part))
        for batch in passed:
            for texts in of_records(records, _OF_RECORDS, batch):
                yield _joined(batch.slice(0, texts.num_rows), texts)
                batch = batch.slice(texts.num_rows)


def _joined(passed: pa.RecordBatch, texts: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of TRIPLETS, from rows of PASSED and RECORDS of the same records."""
    columns = {name: texts.column(name) for name in texts.schema.names}
    columns |= {name: passed.column(name) for name in TRIPLETS.names if name in passed.schema.names}
    columns["parts"] = pc.coalesce(passed.column("parts"), texts.column("parts"))
    return pa.record_batch([columns[name] for name in TRIPLETS.names], schema=TRIPLETS)


def _decide(work: Path, sources: Sequence[FilteredSource]) -> None:
    """Write the table of fates: what each passed record is merged into, and whether it is a query."""
    with joins(work) as db:
        db.execute("CREATE TABLE passed(n BIGINT, source INTEGER, is_query BOOLEAN, says BLOB, sampling_key BIGINT)")
        insert(db, "passed", numbered(work / _PASSED_NAME, ["source", "is_query", "says", "sampling_key"]))
        db.execute("CREATE TABLE draws(source INTEGER, last_key BIGINT, most BIGINT)")
        for number, source in enumerate(sources):
            if source.draws:
                last_key = int(source.rules.weight * SAMPLING_KEYS) - 1
                db.execute("INSERT INTO draws VALUES (?, ?, ?)", (number, last_key, source.rules.limit))
        write_columns(work / _FATES_NAME, _FATES, ordered(db, _DECIDE, _FATES))


def _write_merged(work: Path, sources: Sequence[FilteredSource], merged: TableWriter, rejects: RejectWriter) -> None:
    """Write MERGED, and for each of its records a reject that names its keeper."""
    passed = ColumnFile(work / _PASSED_NAME)
    records = lru_cache(1)(lambda part: open_records(work, part))
    for batch in numbered(work / _FATES_NAME, ["keeper", "into"]):
        places, keepers, into = (column.to_numpy() for column in batch.columns)
        for n in np.flatnonzero(places != keepers).tolist():
            mine, keeper = int(places[n]), int(keepers[n])
            source, part, row = (passed.number(name, mine) for name in ("source", "part", "row"))
            id, place = passed.text("id", mine), records(part).text("place", row)
            merged.add((source, id, place, int(into[n])))
            name = sources[passed.number("source", keeper)].name
            reject = Reject(
                scope="reference",
                stage="filter",
                reason="duplicate_triplet",
                source=sources[source].name,
                locator=place,
                id=id,
                detail=f"shows and says the same as {passed.text('id', keeper)!r} of {name}, which stands for both",
            )
            rejects.reject(source, Phase.FILTER, part, row, reject, place=_AFTER_MEDIA)


def _kept(work: Path) -> Iterator[pa.RecordBatch]:
    """The rows of PASSED that are not merged, as queries if they are drawn."""
    fates = ColumnFile(work / _FATES_NAME).table()
    for first, batch in ColumnFile(work / _PASSED_NAME).batches():
        fate = fates.slice(first, batch.num_rows).combine_chunks()
        keeper = fate.column("keeper").to_numpy()
        kept = pa.array(np.flatnonzero(keeper == np.arange(first, first + batch.num_rows)))
        place = batch.schema.get_field_index("is_query")
        drawn = fate.column("is_query").combine_chunks()
        yield batch.set_column(place, "is_query", drawn).take(kept)
