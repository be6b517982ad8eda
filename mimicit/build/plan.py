"""Choose the context of every query, and fix which sample goes to which shard before anything is packed.

The plan is a second SQLite file, so the catalog stays frozen while workers read it. Samples keep the order of the
input, or, where a shard holds each file once, stand beside those that show the same (see `mimicit.build.placement`). A
shard is closed before it would exceed its limits, so the cut depends on the samples alone.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from mimicit.build.catalog import Catalog
from mimicit.build.config import BuildConfig, SourceRules
from mimicit.build.engine import Engine
from mimicit.build.placement import place_samples
from mimicit.build.progress import Progress
from mimicit.build.samples import SampleMaker
from mimicit.context.choose import Choice, choose, parse_strategies
from mimicit.context.neighbours import Guards
from mimicit.errors import BuildError
from mimicit.records import sample_to_json
from mimicit.schema import canonical_json
from mimicit.shards.tar import BLOCK, END_OF_ARCHIVE, member_span

__all__ = ["Plan", "PlannedSample", "ShardPlan", "make_plan"]

PLAN_NAME: Final = "plan.sqlite"
_TASK_QUERIES: Final = 1_000
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS stage(name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sample(
    seq INTEGER PRIMARY KEY, context TEXT NOT NULL, key TEXT NOT NULL,
    json_size INTEGER NOT NULL, digest BLOB NOT NULL,  -- of its JSON
    size INTEGER NOT NULL,   -- bytes in the shard, if it holds all its files itself
    place INTEGER            -- in the order of the shards
);
CREATE TABLE IF NOT EXISTS shard(
    number INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL,
    samples INTEGER NOT NULL, bytes INTEGER NOT NULL, content TEXT NOT NULL
);
-- The files that a sample shows, where a shard holds each of them once.
CREATE TABLE IF NOT EXISTS file(seq INTEGER NOT NULL, sha256 BLOB NOT NULL, size INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS file_seq ON file(seq);
CREATE INDEX IF NOT EXISTS sample_place ON sample(place);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """One shard: its number from 0, and the places of the first and last sample it holds (both included).

    ``content`` is a SHA-256 over the SHA-256s of its samples' JSON, in order. The JSON names the media by checksum,
    so shards of equal content have equal bytes.
    """

    number: int
    first: int
    last: int
    samples: int
    bytes: int
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSample:
    """One sample: the query's place in the catalog, and its context, nearest to the query first."""

    seq: int
    context: tuple[Choice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChooseTask:
    work: Path
    rules: Mapping[str, SourceRules]
    seed: int
    guards: Guards
    first: int
    last: int
    list_files: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """A sample with its context as JSON; ``files`` are (SHA-256, bytes), and ``size`` counts all of them."""

    seq: int
    context: str
    key: str
    json_size: int
    digest: bytes
    size: int
    files: tuple[tuple[bytes, int], ...]


class Plan:
    """The plan of one work folder, for reading."""

    def __init__(self, work: Path) -> None:
        uri = f"{(work / PLAN_NAME).resolve().as_uri()}?mode=ro&immutable=1"
        self._db = sqlite3.connect(uri, uri=True, isolation_level=None)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def shards(self) -> list[ShardPlan]:
        """All shards in order."""
        rows = self._db.execute("SELECT number, first, last, samples, bytes, content FROM shard ORDER BY number")
        return [ShardPlan(number=n, first=a, last=z, samples=s, bytes=b, content=c) for n, a, z, s, b, c in rows]

    def samples(self, shard: ShardPlan) -> Iterator[PlannedSample]:
        """The samples of ``shard`` in order."""
        rows = self._db.execute(
            "SELECT seq, context FROM sample WHERE place BETWEEN ? AND ? ORDER BY place", (shard.first, shard.last)
        )
        for seq, context in rows:
            yield PlannedSample(seq=seq, context=_choices_from_json(context))


def make_plan(
    work: Path, config: BuildConfig, rules: Mapping[str, SourceRules], engine: Engine, progress: Progress
) -> None:
    """Choose the context of all queries of the frozen catalog and cut the samples into shards; resumable.

    ``rules`` holds for every source, by its name, how many triplets of context it gets and by which strategies.
    """
    db = sqlite3.connect(work / PLAN_NAME, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = TRUNCATE")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_TABLES)
        if db.execute("SELECT 1 FROM stage WHERE name = 'plan'").fetchone() is None:
            _choose_all(db, work, rules, config, engine, progress)
            _check_keys(db)
            db.execute("BEGIN IMMEDIATE")
            place_samples(db, together=config.dedupe)
            db.execute("DELETE FROM shard")
            for shard in _cut(db, config):
                row = (shard.number, shard.first, shard.last, shard.samples, shard.bytes, shard.content)
                db.execute("INSERT INTO shard VALUES (?, ?, ?, ?, ?, ?)", row)
            db.execute("INSERT INTO stage VALUES ('plan')")
            db.execute("COMMIT")
    finally:
        db.close()


def _choose_all(
    db: sqlite3.Connection,
    work: Path,
    rules: Mapping[str, SourceRules],
    config: BuildConfig,
    engine: Engine,
    progress: Progress,
) -> None:
    tasks = [
        _ChooseTask(
            work=work,
            rules=rules,
            seed=config.seed,
            guards=config.similar.guards,
            first=first,
            last=last,
            list_files=config.dedupe,
        )
        for first, last in _query_ranges(work)
        if db.execute("SELECT 1 FROM stage WHERE name = ?", (f"choose {first}",)).fetchone() is None
    ]
    for task, samples in engine.run(_choose_task, tasks, label="choose", progress=progress, total=len(tasks)):
        db.execute("BEGIN IMMEDIATE")
        for sample in samples:
            row = (sample.seq, sample.context, sample.key, sample.json_size, sample.digest, sample.size)
            db.execute("INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?, NULL)", row)
            db.executemany("INSERT INTO file VALUES (?, ?, ?)", ((sample.seq, *file) for file in sample.files))
        db.execute("INSERT INTO stage VALUES (?)", (f"choose {task.first}",))
        db.execute("COMMIT")


def _query_ranges(work: Path) -> list[tuple[int, int]]:
    """Ranges of catalog places that hold about `_TASK_QUERIES` queries each."""
    catalog = Catalog(work, writable=False)
    try:
        rows = catalog.db.execute("SELECT seq FROM triplet WHERE rank IS NOT NULL AND is_query ORDER BY seq")
        ranges: list[tuple[int, int]] = []
        while batch := rows.fetchmany(_TASK_QUERIES):
            ranges.append((batch[0][0], batch[-1][0]))
        return ranges
    finally:
        catalog.close()


def _choose_task(task: _ChooseTask) -> list[_Chosen]:
    """The samples of the queries of a range; runs in a worker."""
    strategies = {source: parse_strategies(rule.context) for source, rule in task.rules.items()}
    maker = SampleMaker(task.work)
    try:
        seqs = maker.catalog.db.execute(
            "SELECT seq FROM triplet WHERE seq BETWEEN ? AND ? AND rank IS NOT NULL AND is_query ORDER BY seq",
            (task.first, task.last),
        ).fetchall()
        chosen: list[_Chosen] = []
        for (seq,) in seqs:
            context: list[Choice] = []
            if not maker.catalog.is_document(seq):
                query = maker.catalog.candidate(seq)
                shots = task.rules[query.source].shots
                context = choose(query, maker.catalog, strategies[query.source], shots, task.seed, task.guards)
            sample, media = maker.make(seq, context)
            text = canonical_json(sample_to_json(sample))
            sizes = [length for stored in media for length in stored.sizes]
            hashes = [bytes.fromhex(checksum) for shown in sample.media for checksum in shown.sha256]
            chosen.append(
                _Chosen(
                    seq=seq,
                    context=_choices_to_json(context),
                    key=sample.key,
                    json_size=len(text),
                    digest=hashlib.sha256(text).digest(),
                    size=sum(map(member_span, [len(text), *sizes])),
                    files=tuple(zip(hashes, sizes, strict=True)) if task.list_files else (),
                )
            )
        return chosen
    finally:
        maker.close()


def _check_keys(db: sqlite3.Connection) -> None:
    """Keys hold 64 bits of a hash, so two samples with one key are all but impossible; still, never write it."""
    row = db.execute("SELECT key, count(*) FROM sample GROUP BY key HAVING count(*) > 1 LIMIT 1").fetchone()
    if row is not None:
        raise BuildError(f"{row[1]} samples have the same key {row[0]}; change one of their ids")


def _cut(db: sqlite3.Connection, config: BuildConfig) -> Iterator[ShardPlan]:
    number, first, last, samples, size = 0, -1, -1, 0, len(END_OF_ARCHIVE)
    content = hashlib.sha256()

    def shard() -> ShardPlan:
        return ShardPlan(
            number=number, first=first, last=last, samples=samples, bytes=size, content=content.hexdigest()
        )

    seen: set[bytes] = set()  # files that the shard holds already, where it holds each of them once
    rows = db.execute("SELECT seq, place, json_size, size, digest FROM sample ORDER BY place")
    for seq, place, json_size, inline_size, digest in rows:
        files: list[tuple[bytes, int]] = []
        bytes_ = inline_size
        if config.dedupe:
            files = db.execute("SELECT sha256, size FROM file WHERE seq = ?", (seq,)).fetchall()
            bytes_ = member_span(json_size) + _deduped_size(files, seen)
        if samples and (size + bytes_ > config.shard_bytes or samples >= config.shard_samples):
            yield shard()
            number, samples, size, content, seen = number + 1, 0, len(END_OF_ARCHIVE), hashlib.sha256(), set()
            bytes_ = member_span(json_size) + _deduped_size(files, seen) if config.dedupe else inline_size
        if not samples:
            first = place
        last, samples, size = place, samples + 1, size + bytes_
        seen.update(sha256 for sha256, _ in files)
        content.update(digest)
    if samples:
        yield shard()


def _deduped_size(files: Sequence[tuple[bytes, int]], seen: Set[bytes]) -> int:
    """Bytes of the members of ``files`` in a shard that holds those in ``seen``: a link is a header alone."""
    new = {sha256: member_span(size) - BLOCK for sha256, size in files if sha256 not in seen}
    return BLOCK * len(files) + sum(new.values())


def _choices_to_json(context: Sequence[Choice]) -> str:
    return orjson.dumps([[choice.seq, choice.relation, choice.score] for choice in context]).decode()


def _choices_from_json(text: str) -> tuple[Choice, ...]:
    return tuple(Choice(seq=seq, relation=relation, score=score) for seq, relation, score in orjson.loads(text))
