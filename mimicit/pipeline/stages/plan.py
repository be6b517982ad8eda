"""Fix which sample goes to which shard, before anything is packed.

Samples keep the order of the input; if a shard holds each file once (``dedupe``), samples that show the same files are
put together instead. A shard is closed before it would exceed its limits, so the cut depends on the samples alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import orjson
import pyarrow as pa

from mimicit.errors import BuildError
from mimicit.pipeline.config import BuildConfig
from mimicit.pipeline.disk import scratch
from mimicit.pipeline.joins import insert, joins
from mimicit.pipeline.parts import ColumnFile, batches_of_rows
from mimicit.pipeline.ragged import Numbers
from mimicit.pipeline.stages.choosing import sample_parts
from mimicit.pipeline.tables import MEDIA_NAME
from mimicit.shards.files import publish, write_atomically
from mimicit.shards.tar import BLOCK, END_OF_ARCHIVE, member_span

_PLAN_NAME: Final = "plan.json"
_ORDER_NAME: Final = "order.npy"
_MEDIA_KEPT: Final = 1 << 14
_BATCH: Final = 1 << 14  # samples
_DIGEST: Final = hashlib.sha256().digest_size
_FILES_OF_SAMPLES: Final = """
CREATE TABLE files AS
SELECT shown.sample, unnest(media.sha256) AS sha256
FROM (SELECT sample, unnest(media) AS number FROM samples) AS shown
JOIN media ON media.number = shown.number
"""
# Samples are sorted by the file of theirs that most samples show, then by their next most shown file, and the third.
# So samples whose contexts overlap come together, however many there are, by sorting alone.
_TOGETHER: Final = """
WITH shown AS (SELECT sha256, count(*) AS samples FROM files GROUP BY sha256),
first_three AS (
    SELECT files.sample, sha256 AS first, lead(sha256) OVER by_use AS second, lead(sha256, 2) OVER by_use AS third
    FROM files JOIN shown USING (sha256)
    WINDOW by_use AS (PARTITION BY files.sample ORDER BY shown.samples DESC, sha256)
    QUALIFY row_number() OVER by_use = 1
)
SELECT samples.sample FROM samples LEFT JOIN first_three USING (sample)
ORDER BY first NULLS FIRST, second NULLS FIRST, third NULLS FIRST, samples.sample
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


class PlannedSamples:
    """The samples of a build in the order of the shards, for reading."""

    def __init__(self, work: Path) -> None:
        self._paths = sample_parts(work)
        order = work / _ORDER_NAME
        self._order = np.load(order, mmap_mode="r") if order.exists() else None
        most = 2 if self._order is None else None  # parts held open; None: all
        self._part = lru_cache(most)(partial(_opened, self._paths))  # a method would keep the last parts mapped
        self._rows = self._part(0).rows if self._paths else 1  # of every part but the last
        self.count = (len(self._paths) - 1) * self._rows + self._part(len(self._paths) - 1).rows if self._paths else 0

    @property
    def relations(self) -> pa.DataType:
        """The type of the samples' column ``relations``."""
        return self._part(0).type_of("relations")

    def batches(self, names: Sequence[str], first: int, end: int, most: int) -> Iterator[pa.RecordBatch]:
        """Columns of SAMPLES for the places ``first`` to ``end`` (not included), up to ``most`` at a time."""
        for start in range(first, end, most):
            numbers = self._numbers(start, min(start + most, end))
            order = np.argsort(numbers, kind="stable")
            taken = [self._part(part).take(names, rows) for part, rows in self._by_part(numbers[order])]
            batch = pa.concat_batches(taken)
            yield batch if self._order is None else batch.take(pa.array(np.argsort(order)))

    def json(self, first: int, end: int) -> Iterator[memoryview]:
        """The JSON of the samples in the places ``first`` to ``end`` (not included)."""
        for number in self._numbers(first, end).tolist():
            part, row = divmod(number, self._rows)
            yield self._part(part).view("json", row)

    def _numbers(self, first: int, end: int) -> Numbers:
        """The samples in the places ``first`` to ``end``, as numbers in the order of the input."""
        return np.arange(first, end) if self._order is None else np.asarray(self._order[first:end])

    def _by_part(self, numbers: Numbers) -> Iterator[tuple[int, Numbers]]:
        """(part, rows of that part) for ``numbers``, which ascend."""
        parts = numbers // self._rows
        for run in np.split(numbers, np.flatnonzero(np.diff(parts)) + 1):
            part = int(run[0]) // self._rows
            yield part, run - part * self._rows


def _opened(parts: Sequence[Path], number: int) -> ColumnFile:
    return ColumnFile(parts[number])


def make_plan(work: Path, config: BuildConfig) -> None:
    """Cut the chosen samples into shards, once; `BuildError` if two samples have one key."""
    if (work / _PLAN_NAME).exists():
        return
    with joins(work) as db:
        _register_samples(db, work)
        _check_keys(db)
        if config.dedupe:
            _register_media(db, work)
            with publish(work / _ORDER_NAME, scratch(work / _ORDER_NAME)) as file:
                np.save(file, _beside_alike(db))
    samples = PlannedSamples(work)
    shards = list(_cut_deduped(work, samples, config) if config.dedupe else _cut(samples, config))
    write_atomically(work / _PLAN_NAME, [orjson.dumps([asdict(shard) for shard in shards])])


def planned_shards(work: Path) -> list[ShardPlan]:
    """All shards in order."""
    return [ShardPlan(**value) for value in orjson.loads((work / _PLAN_NAME).read_bytes())]


def _register_samples(db: duckdb.DuckDBPyConnection, work: Path) -> None:
    """Make the table ``samples(sample, key, media)``; ``sample`` is its number in the order of the input."""
    db.execute("CREATE TABLE samples(sample BIGINT, key VARCHAR, media BIGINT[])")
    start = 0
    for path in sample_parts(work):
        part = ColumnFile(path)
        columns = part.table(["key", "media"])
        numbers = pa.array(np.arange(start, start + part.rows))
        insert(db, "samples", columns.add_column(0, "sample", numbers).to_batches())
        start += part.rows


def _check_keys(db: duckdb.DuckDBPyConnection) -> None:
    """`BuildError` if two samples have one key, which is all but impossible: keys hold 64 bits of a hash."""
    row = db.execute(
        "SELECT key, count(*) FROM samples GROUP BY key HAVING count(*) > 1 ORDER BY key LIMIT 1"
    ).fetchone()
    if row is not None:
        raise BuildError(f"{row[1]} samples have the same key {row[0]}; change one of their ids")


def _register_media(db: duckdb.DuckDBPyConnection, work: Path) -> None:
    """Make the table ``media(number, sha256)``: the checksums of the files of each medium."""
    db.execute("CREATE TABLE media(number BIGINT, sha256 BLOB[])")
    media = ColumnFile(work / MEDIA_NAME)
    schema = pa.schema([("number", pa.int64()), ("sha256", pa.list_(pa.binary()))])
    rows = ((number, [bytes.fromhex(digest) for digest in _checksums(media, number)]) for number in range(media.rows))
    insert(db, "media", batches_of_rows(rows, schema))


def _checksums(media: ColumnFile, number: int) -> list[str]:
    text = media.data("media", number)
    found: list[str] = orjson.loads(text)["sha256"] if text else []
    return found


def _beside_alike(db: duckdb.DuckDBPyConnection) -> Any:
    """int64[samples]: the samples, ordered so that those that show the same files come together."""
    db.execute(_FILES_OF_SAMPLES)
    return db.sql(_TOGETHER).to_arrow_table().column(0).to_numpy()


@dataclass(slots=True)
class _OpenShard:
    """A shard that still takes samples; ``first`` is the place of its first sample."""

    number: int = 0
    first: int = 0
    samples: int = 0
    bytes: int = len(END_OF_ARCHIVE)
    content: Any = field(default_factory=hashlib.sha256)

    def add(self, samples: int, size: int, digests: memoryview) -> None:
        self.samples += samples
        self.bytes += size
        self.content.update(digests)

    def close(self) -> tuple[ShardPlan, _OpenShard]:
        """The plan of this shard, and the next shard."""
        end = self.first + self.samples
        plan = ShardPlan(
            number=self.number,
            first=self.first,
            last=end - 1,
            samples=self.samples,
            bytes=self.bytes,
            content=self.content.hexdigest(),
        )
        return plan, _OpenShard(self.number + 1, end)


def _cut(samples: PlannedSamples, config: BuildConfig) -> Iterator[ShardPlan]:
    """The shards if each sample holds all its files itself."""
    shard = _OpenShard()
    for batch in samples.batches(["size", "digest"], 0, samples.count, _BATCH):
        ends, digests = np.cumsum(batch.column("size").to_numpy()), memoryview(batch.column("digest").buffers()[1])
        place, before = 0, 0
        while place < len(ends):
            fits = int(np.searchsorted(ends, before + config.shard_bytes - shard.bytes, "right"))
            end = min(fits, place + config.shard_samples - shard.samples)
            if end <= place and shard.samples:
                plan, shard = shard.close()
                yield plan
                continue
            end = max(end, place + 1)
            size = int(ends[end - 1]) - before
            shard.add(end - place, size, digests[_DIGEST * place : _DIGEST * end])
            place, before = end, before + size
    if shard.samples:
        yield shard.close()[0]


def _cut_deduped(work: Path, samples: PlannedSamples, config: BuildConfig) -> Iterator[ShardPlan]:
    """The shards if each holds every file only once."""
    media = ColumnFile(work / MEDIA_NAME)

    @lru_cache(_MEDIA_KEPT)
    def files_of(number: int) -> tuple[tuple[str, int], ...]:
        """(SHA-256, bytes) of the files of a medium."""
        return tuple(zip(_checksums(media, number), media.integers("sizes", number), strict=True))

    shard = _OpenShard()
    seen: dict[str, int] = {}  # files that the shard holds already
    for batch in samples.batches(["size", "digest", "media"], 0, samples.count, _BATCH):
        for inline_size, digest, numbers in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            files = [file for number in numbers for file in files_of(number)]
            json_size = inline_size - sum(member_span(size) for _, size in files)
            size = json_size + _deduped_size(files, seen)
            if shard.samples and (shard.bytes + size > config.shard_bytes or shard.samples >= config.shard_samples):
                plan, shard = shard.close()
                yield plan
                seen = {}
                size = json_size + _deduped_size(files, seen)
            shard.add(1, size, digest)
            seen.update(files)
    if shard.samples:
        yield shard.close()[0]


def _deduped_size(files: Sequence[tuple[str, int]], seen: Mapping[str, int]) -> int:
    """Bytes of the members of ``files`` in a shard that already holds those in ``seen``, whose links are headers."""
    new = {sha256: member_span(size) - BLOCK for sha256, size in files if sha256 not in seen}
    return BLOCK * len(files) + sum(new.values())
