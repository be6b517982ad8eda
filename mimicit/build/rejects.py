"""What was left out, stage by stage: each stage writes a table of its own, and all together give ``rejects.parquet``.

Rejects of a source come in the order of the stages, and of its records within a stage, whatever the workers did.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Final

import duckdb

from mimicit.build.column_file import ColumnFile, TableWriter
from mimicit.build.joins import insert
from mimicit.build.tables import REJECTS
from mimicit.sources.base import Reject

__all__ = ["OF_INPUT", "Phase", "RejectWriter", "load_rejects", "rejects_path"]

OF_INPUT: Final = -1
"""The number of the source of rejects that are of the input as a whole."""

_FOLDER: Final = "rejects"
_COLUMNS: Final = ", ".join(
    f"{name} {'VARCHAR' if place > 4 else 'BIGINT'}" for place, name in enumerate(REJECTS.names)
)


class Phase(IntEnum):
    """Where on the road something was left out; orders the rejects of a source."""

    SCAN = 0
    IMPORT = 1
    TRAINING = 2
    RESOLVE = 3
    RELATED = 4
    FILTER = 5
    UNUSED = 6


class RejectWriter(TableWriter):
    """Writes the rejects of one stage."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, REJECTS, skip_empty=True)

    def reject(self, source: int, phase: Phase, part: int, row: int, reject: Reject, *, place: int = 0) -> None:
        """Add one; ``part``, ``row`` and ``place`` give its order within the phase."""
        said = (reject.scope, reject.stage, reject.reason, reject.locator, reject.id, reject.detail)
        self.add((source, int(phase), part, row, place, *said))


def rejects_path(work: Path, stage: str) -> Path:
    """The table of the rejects of ``stage``."""
    return work / _FOLDER / f"{stage}.arrow"


def load_rejects(db: duckdb.DuckDBPyConnection, work: Path, others: Iterable[Path]) -> None:
    """Make the table ``rejects`` of those of all stages, and of the tables ``others``."""
    db.execute(f"CREATE TABLE rejects({_COLUMNS})")
    for path in [*sorted((work / _FOLDER).glob("*.arrow")), *others]:
        insert(db, "rejects", ColumnFile(path).table().to_batches())
