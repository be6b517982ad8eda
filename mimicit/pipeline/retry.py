"""``--retry-rejects``: count how many of the records that an earlier build rejected are in now.

They may be because the input was fixed, or because a decoder that had crashed or taken too long was tried again.

The folder itself is built anew, so it ends with the bytes of a fresh build; only this count needs the earlier rejects,
which are kept in the work folder until the records have been read again.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from mimicit.pipeline.joins import insert, joins, rows_of
from mimicit.pipeline.parts import ColumnFile, batches_of_rows
from mimicit.pipeline.rejects import Rejects
from mimicit.pipeline.stages.importing import part_rejects
from mimicit.pipeline.tables import MERGED_NAME, TRIPLETS_NAME
from mimicit.shards.files import write_atomically
from mimicit.sources.format import SourceSpec

GIVEN_UP: Final = frozenset(("decoder_died", "timeout", "too_much_memory"))
"""The reasons of rejects that another attempt at the same input may not repeat."""

_PREVIOUS_NAME: Final = "previous-rejects.parquet"
_PREVIOUS: Final = pa.schema([("source", pa.int32()), ("id", pa.large_string()), ("place", pa.large_string())])
_TABLES: Final = """
CREATE TABLE previous(source INTEGER, id VARCHAR, place VARCHAR);
CREATE TABLE kept(source INTEGER, id VARCHAR, place VARCHAR);
"""
# A record without an id (a line that was not JSON) is recognized by its place.
_COUNT_MENDED: Final = """
SELECT count(*) FROM previous
ANTI JOIN (SELECT source, id, locator AS place FROM rejects WHERE scope = 'record') AS rejected
    USING (source, id, place)
WHERE CASE WHEN id = '' THEN (source, place) IN (SELECT (source, place) FROM kept)
    ELSE (source, id) IN (SELECT (source, id) FROM kept) END
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """``rejected`` records were rejected by the build before; ``fixed`` of them are in now."""

    rejected: int
    fixed: int


def has_reason(table: bytes, reasons: Collection[str]) -> bool:
    """Whether a ``rejects.parquet`` has a row with one of the ``reasons``; False if it is unreadable."""
    try:
        with pq.ParquetFile(io.BytesIO(table)) as file:
            batches = file.iter_batches(columns=["reason"])
            return any(not set(reasons).isdisjoint(batch.column(0).to_pylist()) for batch in batches)
    except (pa.ArrowException, OSError, ValueError):
        return False


def keep_previous_rejects(work: Path, table: bytes) -> None:
    """Keep the ``rejects.parquet`` of an earlier build for `count_retried`."""
    write_atomically(work / _PREVIOUS_NAME, [table])


def count_retried(work: Path, specs: Sequence[SourceSpec]) -> Retried | None:
    """Compare the rejects of the earlier build, if any were kept, with what is usable now."""
    path = work / _PREVIOUS_NAME
    if not path.exists():
        return None
    numbers = {spec.name: number for number, spec in enumerate(specs)}
    rejected = 0
    with joins(work) as db, pq.ParquetFile(path) as file:
        db.execute(_TABLES)
        Rejects(db, work, part_rejects(work))  # makes the table ``rejects`` of the query below
        for batch in file.iter_batches(columns=["scope", "source", "id", "locator"]):
            rows = [row for row in batch.to_pylist() if row["scope"] == "record"]
            rejected += len(rows)
            known = [(numbers[row["source"]], row["id"], row["locator"]) for row in rows if row["source"] in numbers]
            insert(db, "previous", batches_of_rows(known, _PREVIOUS))
        for name in (TRIPLETS_NAME, MERGED_NAME):
            insert(db, "kept", ColumnFile(work / name).table(["source", "id", "place"]).to_batches())
        (counted,) = rows_of(db, _COUNT_MENDED)
    return Retried(rejected=rejected, fixed=counted[0])
