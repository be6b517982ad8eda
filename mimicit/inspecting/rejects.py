"""Why records were left out: ``rejects.parquet`` counted and sorted into groups, with the first of each to look at.

The table is read in batches. Memory holds one page of rows, or the groups: few by reason, source and kind of loss,
maybe many by file, so rejects beyond the first `MAX_GROUPS` groups are counted together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimicit.errors import CorruptShardError, ShardError
from mimicit.inspecting.summary import printable
from mimicit.shards.files import open_regular
from mimicit.shards.manifest import read_manifest

REJECTS_NAME: Final = "rejects.parquet"
MAX_GROUPS: Final = 10_000
_COLUMNS: Final = ("scope", "reason", "source", "locator", "id", "detail")
_BATCH_ROWS: Final = 4096

# A file with an extension, then the place inside it: ``a.json#id``, ``a.json[7]``, ``a.jsonl:7``.
_PLACE_IN_FILE: Final = re.compile(r"(.*?\.\w+)(?:#.*|\[\d+\]|:\d+)", re.DOTALL)


@dataclass(kw_only=True)
class RejectGroup:
    """Rejects that are alike: ``by`` is their reason, source or file, as asked for; ``first`` are rows of the table.

    ``scope`` is what was lost: a record, or a medium or reference of a record that may have been kept.
    """

    by: str
    reason: str
    source: str
    scope: str
    count: int = 0
    first: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RejectGroups:
    """The groups, largest first, and how many rejects belong to groups beyond `MAX_GROUPS`."""

    path: str
    total: int
    others: int
    groups: tuple[RejectGroup, ...]

    def to_json(self) -> dict[str, Any]:
        """The groups as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RejectPage:
    """Some rows of the table, as objects by column; ``total`` counts all rows that were chosen."""

    total: int
    rows: tuple[dict[str, str], ...]


def group_rejects(
    folder: Path,
    *,
    by: Literal["reason", "source", "file"] = "reason",
    source: str | None = None,
    reason: str | None = None,
    limit: int = 3,
) -> RejectGroups:
    """The rejects of a finished shard folder, of one ``source`` or ``reason`` if given; ``limit`` rows of each group.

    `ShardError` if ``folder`` is not a shard folder or lacks the table, `CorruptShardError` if it is unreadable.
    """
    read_manifest(folder)
    groups: dict[tuple[str, ...], RejectGroup] = {}
    total = others = 0
    for row in (row for batch in _batches(folder / REJECTS_NAME) for row in batch.to_pylist()):
        if (source is not None and row["source"] != source) or (reason is not None and row["reason"] != reason):
            continue
        total += 1
        name = _file_of(row["locator"]) if by == "file" else row[by]
        key = (name, row["reason"], row["source"], row["scope"])
        group = groups.get(key)
        if group is None and len(groups) >= MAX_GROUPS:
            others += 1
            continue
        if group is None:
            group = groups[key] = RejectGroup(by=name, reason=row["reason"], source=row["source"], scope=row["scope"])
        group.count += 1
        if len(group.first) < limit:
            group.first.append({"locator": row["locator"], "id": row["id"], "detail": row["detail"]})
    ordered = sorted(groups.values(), key=lambda group: -group.count)  # equal counts stay in the order of the table
    return RejectGroups(path=str(folder), total=total, others=others, groups=tuple(ordered))


def page_of_rejects(
    folder: Path, *, source: str | None = None, reason: str | None = None, start: int = 0, most: int
) -> RejectPage:
    """The rejects of one ``source`` or ``reason`` if given, in the order of the table: ``most`` from ``start`` on.

    Errors as `group_rejects`. Costs one pass over the table; only the rows of the page become Python objects.
    """
    read_manifest(folder)
    total = 0
    rows: list[dict[str, str]] = []
    for batch in _batches(folder / REJECTS_NAME):
        for column, wanted in (("source", source), ("reason", reason)):
            if wanted is not None:
                batch = batch.filter(pc.equal(batch.column(column), wanted))
        rows += batch.slice(min(max(start - total, 0), len(batch)), most - len(rows)).to_pylist()
        total += len(batch)
    return RejectPage(total, tuple(rows))


def rejects_text(rejects: RejectGroups) -> str:
    """The groups as lines for a terminal."""
    lines = [f"{rejects.path}: {rejects.total:,} reject(s) in {len(rejects.groups):,} group(s)"]
    for group in rejects.groups:
        names = dict.fromkeys((group.by, group.reason, group.source or "(no source)"))
        lines += ["", f"{group.count:,} {group.scope}(s): {', '.join(names)}"]
        for row in group.first:
            who = f" {row['id']}" if row["id"] and row["id"] not in row["locator"] else ""
            lines.append(f"  {row['locator']}{who}: {row['detail']}")
        if group.count > len(group.first) > 0:
            lines.append(f"  ... and {group.count - len(group.first):,} more")
    if rejects.others:
        lines += ["", f"{rejects.others:,} more in further groups; narrow them down with --source or --reason"]
    return printable("\n".join(lines))


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if not path.is_file():
        raise ShardError(f"{path}: no such file; build the folder again")
    try:
        with open_regular(path) as source, pq.ParquetFile(source) as file:
            missing = set(_COLUMNS) - set(file.schema_arrow.names)
            if missing:
                raise CorruptShardError(f"{path}: column {min(missing)} is missing; build the folder again")
            yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=list(_COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise CorruptShardError(f"{path}: unreadable ({error}); build the folder again") from None


def _file_of(locator: str) -> str:
    match = _PLACE_IN_FILE.fullmatch(locator)
    return match[1] if match else locator
