"""Filter, deduplicate and draw: which records are usable, which are merged, and which are asked about.

Records are looked at in the order of the input, so the first of several equals is the one that stays, whatever the
workers did. Each passes, in this order: its media are sound and pass the filters of its source; none looks like a
picture of a record that was kept before; it does not say and show the same as one that was kept. Then the queries of
each source are drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from mimicit.pipeline.config import BuildConfig, SourceRules
from mimicit.pipeline.joins import insert, joins, ordered
from mimicit.pipeline.parts import ColumnFile, TableWriter, numbered, write_columns
from mimicit.pipeline.progress import Progress
from mimicit.pipeline.rejects import Phase, RejectWriter, rejects_path
from mimicit.pipeline.stages.draw import LOTS, lot
from mimicit.pipeline.stages.filters import MediaFacts, media_fault
from mimicit.pipeline.stages.look_alikes import LookAlikes
from mimicit.pipeline.stages.resolve import open_records
from mimicit.pipeline.tables import (
    MEDIA_NAME,
    MEDIA_REFERENCES_NAME,
    MERGED,
    MERGED_NAME,
    RESOLVED,
    RESOLVED_NAME,
    TRIPLETS,
    TRIPLETS_NAME,
)
from mimicit.schema import canonical_json
from mimicit.shards.soundness import MAX_SAMPLE_BYTES
from mimicit.sources.base import Reject

__all__ = ["filter_triplets"]

_REPORT_EVERY: Final = 50_000
_OUTCOMES_KEPT: Final = 1 << 14
_MAX_MEDIA_BYTES: Final = MAX_SAMPLE_BYTES - (64 << 20)  # of a sample, beside its text
_PASSED_NAME: Final = "passed.arrow"
_FATES_NAME: Final = "fates.arrow"
_PASSED: Final = pa.schema(
    [
        # RESOLVED without the records that are rejected for their media.
        *(field for field in RESOLVED if field.name != "media"),
        ("media", pa.list_(pa.int64())),  # those that are shown; of equal ones the first
        ("shown", pa.large_string()),
        ("parts", pa.large_binary()),  # of a document that has lost media, else null
        ("says", pa.binary(16)),  # equal for records that say and show the same, where these are merged
        ("lot", pa.int64()),  # where queries are drawn
    ]
)
_FATES: Final = pa.schema(
    [
        # One for each row of PASSED.
        ("keeper", pa.int64()),  # the row of PASSED that stands for it: itself, unless it is merged
        ("into", pa.int64()),  # the row of that in TRIPLETS
        ("is_query", pa.bool_()),
    ]
)
_AFTER_MEDIA: Final = 1 << 20  # the place of a merged record among the rejects of its row
# A merged record is no query; the one that stands for it is, if either was. A source that is not in ``draws`` keeps
# all its queries.
_DECIDE: Final = """
WITH merged AS (
    SELECT n, source, lot, min(n) OVER equal AS keeper, bool_or(is_query) OVER equal AS is_query
    FROM passed WINDOW equal AS (PARTITION BY coalesce(says, CAST(CAST(n AS VARCHAR) AS BLOB)))
),
kept AS (
    SELECT n, lot, most, is_query AND coalesce(lot <= last_lot, true) AS is_query, merged.source,
        row_number() OVER (ORDER BY n) - 1 AS row
    FROM merged LEFT JOIN draws ON draws.source = merged.source WHERE keeper = n
),
drawn AS (
    SELECT n, row, is_query AND coalesce(
        row_number() OVER (PARTITION BY source, is_query ORDER BY lot, n) <= most, true
    ) AS is_query
    FROM kept
)
SELECT keeper, drawn.row AS into, merged.n = keeper AND drawn.is_query AS is_query
FROM merged JOIN drawn ON drawn.n = merged.keeper ORDER BY merged.n
"""


class _Lost(NamedTuple):
    """A medium that cannot or shall not be shown, and why."""

    stage: Literal["media", "filter"]
    reason: str
    detail: str


class _Resolved(NamedTuple):
    """A row of RESOLVED."""

    part: int
    row: int
    source: int
    id: str
    media: list[int]
    is_query: bool
    related: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A source and its rules."""

    name: str
    rules: SourceRules


def filter_triplets(work: Path, rules: Mapping[str, SourceRules], config: BuildConfig, progress: Progress) -> None:
    """Write TRIPLETS and MERGED, once; ``rules`` are those of each source by name, in the order of their numbers."""
    if (work / TRIPLETS_NAME).exists():
        return
    sources = [_Source(name=name, rules=rule) for name, rule in rules.items()]
    with RejectWriter(rejects_path(work, "filter")) as rejects:
        judge = _Judge(work, sources, config, rejects)
        with TableWriter(work / _PASSED_NAME, _PASSED) as passed:
            for count, row in enumerate(_resolved(work)):
                if count % _REPORT_EVERY == 0:
                    progress.update("filter", count, None)
                if (outcome := judge.outcome(row)) is not None:
                    passed.add((row.part, row.row, row.source, row.id, row.is_query, row.related, *outcome))
        _decide(work, sources, config)
        with TableWriter(work / MERGED_NAME, MERGED) as merged:
            _write_merged(work, sources, merged, rejects)
    write_columns(work / TRIPLETS_NAME, TRIPLETS, _triplets(work))
    for name in (_PASSED_NAME, _FATES_NAME):
        (work / name).unlink()


def _resolved(work: Path) -> Iterator[_Resolved]:
    for batch in ColumnFile(work / RESOLVED_NAME).table(_Resolved._fields).to_batches():
        yield from map(_Resolved._make, zip(*(column.to_pylist() for column in batch.columns), strict=True))


class _Judge:
    """Says of every record whether its media can be shown, one after the other in the order of the input."""

    def __init__(self, work: Path, sources: Sequence[_Source], config: BuildConfig, rejects: RejectWriter) -> None:
        self._sources = sources
        self._config = config
        self._rejects = rejects
        self._media = ColumnFile(work / MEDIA_NAME)
        self._references = ColumnFile(work / MEDIA_REFERENCES_NAME)
        self._records = lru_cache(1)(lambda part: open_records(work, part))
        distance = config.near_duplicates
        self._look_alikes = None if distance is None else LookAlikes(distance)
        self._medium = lru_cache(_OUTCOMES_KEPT)(self._outcome)
        self._size = lru_cache(_OUTCOMES_KEPT)(lambda number: sum(self._media.integers("sizes", number)))

    def outcome(self, row: _Resolved) -> tuple[Any, ...] | None:
        """The row of PASSED but for its number; None where the record is rejected for a medium that it lacks."""
        outcomes = [self._medium(row.source, number) for number in row.media]
        if self._look_alikes is not None:
            outcomes = [self._compared(self._look_alikes, *pair) for pair in zip(row.media, outcomes, strict=True)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, _Lost)]
        usable = [outcome for outcome in outcomes if not isinstance(outcome, _Lost)]
        parts: bytes | None = None
        if lost:
            parts = self._records(row.part).data("parts", row.row)
            if not (parts and usable):
                self._reject(row, 0, lost[0], "record")
                return None
            for place, fault in enumerate(lost):  # a document goes on without them, as one picture is left
                self._reject(row, place, fault, "media")
            parts = orjson.dumps(_parts_without(orjson.loads(parts), outcomes))
        most = _MAX_MEDIA_BYTES // (self._sources[row.source].rules.shots + 1)
        if (size := sum(map(self._size, usable))) > most:
            detail = (
                f"its media take {size:,} bytes as stored; the limit is {most:,}, by --shots; lower --size or --frames"
            )
            self._reject(row, len(lost), _Lost("filter", "too_long", detail), "record")
            return None
        if self._look_alikes is not None:
            for number in usable:
                if look := self._media.data("fingerprint", number):
                    self._look_alikes.add(number, look)
        contents = [self._media.text("content", number) for number in usable]
        return usable, ",".join(contents), parts, self._says(row, contents, parts), self._lot(row)

    def _outcome(self, source: int, number: int) -> int | _Lost:
        """The first medium of the same content as ``number``, which stands for it; or why it is not shown."""
        media = self._media
        same_as = media.number("same_as", number)
        if same_as < 0:
            return _Lost(
                "media", media.text("reason", number), f"{self._origin(number)}: {media.text('detail', number)}"
            )
        facts = MediaFacts(*(media.number(name, number) for name in MediaFacts._fields))
        fault = media_fault(facts, self._sources[source].rules.filters)
        if fault is not None:
            return _Lost("filter", fault.reason, f"{self._origin(number)}: {fault.detail}")
        return same_as

    def _compared(self, look_alikes: LookAlikes, number: int, outcome: int | _Lost) -> int | _Lost:
        """``outcome``, unless the medium looks like one that was kept."""
        if isinstance(outcome, _Lost) or not (look := self._media.data("fingerprint", number)):
            return outcome
        other = look_alikes.find(outcome, look)
        if other is None:
            return outcome
        detail = f"{self._origin(number)}: looks like {self._origin(other)}, which is kept"
        return _Lost("filter", "duplicate_media", detail)

    def _origin(self, number: int) -> str:
        return str(orjson.loads(self._references.data("ref", number))["origin"])

    def _says(self, row: _Resolved, contents: Sequence[str], parts: bytes | None) -> bytes | None:
        """Equal for records to be merged; the turns of a conversation never are."""
        merging = self._config.duplicate_triplets
        if merging == "keep":
            return None
        records = self._records(row.part)
        if records.data("conversation", row.row):
            return None
        texts = [records.text(name, row.row) for name in ("instruction", "answer")]
        parts = records.data("parts", row.row) if parts is None else parts
        scope = None if merging == "merge-all" else row.source
        said = canonical_json([scope, contents, *texts, parts.decode()])
        return hashlib.blake2b(said, digest_size=16).digest()

    def _lot(self, row: _Resolved) -> int | None:
        rules = self._sources[row.source].rules
        return lot(self._config.seed, row.id) if _draws(rules) else None

    def _reject(self, row: _Resolved, place: int, fault: _Lost, scope: Literal["record", "media"]) -> None:
        reject = Reject(
            scope=scope,
            stage=fault.stage,
            reason=fault.reason,
            source=self._sources[row.source].name,
            locator=self._records(row.part).text("place", row.row),
            id=row.id,
            detail=fault.detail,
        )
        self._rejects.reject(row.source, Phase.FILTER, row.part, row.row, reject, place=place)


def _parts_without(parts: Sequence[tuple[int, str]], outcomes: Sequence[int | _Lost]) -> list[tuple[int, str]]:
    """The parts of a document, with only the usable media counted."""
    left: list[tuple[int, str]] = []
    start = 0
    for count, text in parts:
        shown = outcomes[start : start + count]
        left.append((sum(not isinstance(outcome, _Lost) for outcome in shown), text))
        start += count
    return left


def _draws(rules: SourceRules) -> bool:
    return rules.limit is not None or rules.weight < 1


def _decide(work: Path, sources: Sequence[_Source], config: BuildConfig) -> None:
    """Write the table of fates: what each passed record is merged into, and whether it is a query."""
    passed = ColumnFile(work / _PASSED_NAME)
    if config.duplicate_triplets == "keep" and not any(_draws(source.rules) for source in sources):
        write_columns(work / _FATES_NAME, _FATES, _all_kept(passed))
        return
    with joins(work) as db:
        db.execute("CREATE TABLE passed(n BIGINT, source INTEGER, is_query BOOLEAN, says BLOB, lot BIGINT)")
        insert(db, "passed", numbered(passed, ["source", "is_query", "says", "lot"]))
        db.execute("CREATE TABLE draws(source INTEGER, last_lot BIGINT, most BIGINT)")
        for number, source in enumerate(sources):
            if _draws(source.rules):
                last_lot = int(source.rules.weight * LOTS) - 1
                db.execute("INSERT INTO draws VALUES (?, ?, ?)", (number, last_lot, source.rules.limit))
        write_columns(work / _FATES_NAME, _FATES, ordered(db, _DECIDE, _FATES))


def _all_kept(passed: ColumnFile) -> Iterator[pa.RecordBatch]:
    for batch in numbered(passed, ["is_query"]):
        numbers, is_query = batch.columns
        yield pa.record_batch([numbers, numbers, is_query], schema=_FATES)


def _write_merged(work: Path, sources: Sequence[_Source], merged: TableWriter, rejects: RejectWriter) -> None:
    """Write MERGED, and a reject that says what stands for each of its records."""
    passed = ColumnFile(work / _PASSED_NAME)
    records = lru_cache(1)(lambda part: open_records(work, part))
    for batch in numbered(ColumnFile(work / _FATES_NAME), ["keeper", "into"]):
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


def _triplets(work: Path) -> Iterator[pa.RecordBatch]:
    """The rows of TRIPLETS: those of PASSED that are kept, with what RECORDS have of them."""
    fates = ColumnFile(work / _FATES_NAME).table()
    records = lru_cache(1)(lambda part: open_records(work, part).table().to_batches())
    for first, batch in ColumnFile(work / _PASSED_NAME).batches():
        fate = fates.slice(first, batch.num_rows)
        keeper = fate.column("keeper").to_numpy()
        kept = np.flatnonzero(keeper == np.arange(first, first + batch.num_rows))
        passed = batch.append_column("drawn", fate.column("is_query").combine_chunks()).take(pa.array(kept))
        parts = passed.column("part").to_numpy()
        for part in np.unique(parts).tolist():
            start = 0
            for texts in records(part):
                end = start + texts.num_rows
                rows = passed.column("row").to_numpy()
                places = np.flatnonzero((parts == part) & (rows >= start) & (rows < end))
                if len(places):
                    yield _joined(passed.take(pa.array(places)), texts.take(pa.array(rows[places] - start)))
                start = end


def _joined(passed: pa.RecordBatch, texts: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of TRIPLETS of the same rows of PASSED and RECORDS."""
    columns = {name: texts.column(name) for name in TRIPLETS.names if name in texts.schema.names}
    columns |= {name: passed.column(name) for name in ("source", "id", "media", "shown", "related")}
    columns["is_query"] = passed.column("drawn")
    columns["parts"] = pc.coalesce(passed.column("parts"), texts.column("parts"))
    return pa.record_batch([columns[name] for name in TRIPLETS.names], schema=TRIPLETS)
