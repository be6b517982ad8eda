"""Rejects: what was left out. Each stage writes a table of its own; all of them together make ``rejects.parquet``.

The rejects of a source are ordered by stage, and within a stage by record, whatever the workers did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb

from mimicit.pipeline.joins import insert, rows_of
from mimicit.pipeline.parts import ColumnFile, TableWriter
from mimicit.pipeline.tables import REJECTS
from mimicit.sources.items import Reject

OF_INPUT: Final = -1
"""The source number of rejects that concern the input as a whole, not a source."""

_FOLDER: Final = "rejects"
_COLUMNS: Final = ", ".join(
    f"{name} {'VARCHAR' if place > 4 else 'BIGINT'}" for place, name in enumerate(REJECTS.names)
)


_IN_ORDER: Final = """
SELECT source, scope, stage, reason, locator, id, detail FROM rejects ORDER BY source, phase, part, row, place
"""
_RECORDS: Final = """
SELECT source, reason, count(*) FROM rejects WHERE scope = 'record' GROUP BY source, reason ORDER BY source, reason
"""
_OF_INPUT: Final = f"FROM rejects WHERE source = {OF_INPUT} AND reason = '{{}}'"
_LOST: Final = "FROM rejects WHERE scope IN ('record', 'source') AND reason NOT IN ({})"
# How many pictures and clips of the records were lost for each reason, with an example of each.
_LOST_MEDIA: Final = """
SELECT count(*) OVER (PARTITION BY reason) AS count, reason, detail FROM rejects WHERE scope = 'media'
QUALIFY row_number() OVER (PARTITION BY reason ORDER BY phase, source, part, row, place) = 1 ORDER BY count DESC, reason
"""


class Phase(IntEnum):
    """At which stage something was left out; orders the rejects of a source."""

    SCAN = 0
    IMPORT = 1
    TRAINING = 2
    RESOLVE = 3
    RELATED = 4
    FILTER = 5
    UNUSED = 6


class Lost(NamedTuple):
    """How many records were rejected; counts by reason, the first reject, and examples of lost media, in words."""

    records: int
    counts: str
    locator: str
    reason: str
    detail: str
    media: str


class RejectWriter(TableWriter):
    """Writes the rejects of one stage."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, REJECTS, skip_empty=True)

    def reject(self, source: int, phase: Phase, part: int, row: int, reject: Reject, *, place: int = 0) -> None:
        """Add ``reject``; ``part``, ``row`` and ``place`` give its order within the phase."""
        said = (reject.scope, reject.stage, reject.reason, reject.locator, reject.id, reject.detail)
        self.add((source, int(phase), part, row, place, *said))


def rejects_path(work: Path, stage: str) -> Path:
    """The table of the rejects of ``stage``."""
    return work / _FOLDER / f"{stage}.arrow"


class Rejects:
    """The rejects of all stages of one work folder, for reading; ``parts`` are the tables of the import's parts."""

    def __init__(self, db: duckdb.DuckDBPyConnection, work: Path, parts: Iterable[Path]) -> None:
        self._db = db
        db.execute(f"CREATE TABLE rejects({_COLUMNS})")
        paths = [*sorted((work / _FOLDER).glob("*.arrow")), *parts]
        insert(db, "rejects", (batch for path in paths for _, batch in ColumnFile(path).batches()))

    def in_order(self) -> Iterator[tuple[Any, ...]]:
        """(number of the source, scope, stage, reason, locator, id, detail) of each, in order."""
        yield from rows_of(self._db, _IN_ORDER)

    def records(self) -> Iterator[tuple[int, str, int]]:
        """(number of the source, reason, how many records) of every source and reason, in order."""
        yield from rows_of(self._db, _RECORDS)

    def of_input(self, reason: str, most: int) -> tuple[int, list[tuple[str, str]]]:
        """How many files of the input were left out for ``reason``, and (path, why) of the first."""
        (count,) = next(rows_of(self._db, f"SELECT count(*) {_OF_INPUT.format(reason)}"))
        if not count or not most:
            return count, []
        first = rows_of(self._db, f"SELECT locator, detail {_OF_INPUT.format(reason)} ORDER BY row LIMIT {most}")
        return count, list(first)

    def lost(self, besides: Sequence[str]) -> Lost | None:
        """The records and sources that were rejected for reasons other than ``besides``; None if there are none."""
        lost = _LOST.format(", ".join(f"'{reason}'" for reason in besides))
        reasons = list(rows_of(self._db, f"SELECT reason, count(*) {lost} GROUP BY reason ORDER BY reason"))
        if not reasons:
            return None
        first = f"SELECT locator, reason, detail {lost} ORDER BY phase, source, part, row LIMIT 1"
        locator, reason, detail = next(rows_of(self._db, first))
        media = "; ".join(f"{count} as {why}, such as {what}" for count, why, what in rows_of(self._db, _LOST_MEDIA))
        counts = ", ".join(f"{count} as {reason}" for reason, count in reasons)
        return Lost(sum(count for _, count in reasons), counts, locator, reason, detail, media)
