"""Fix which sample goes to which shard, before anything is packed.

Samples keep the order of the input, or, where a shard holds each file once, stand beside those that show the same. A
shard is closed before it would exceed its limits, so the cut depends on the samples alone.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
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
from mimicit.pipeline.stages.choosing import sample_parts
from mimicit.pipeline.tables import MEDIA_NAME
from mimicit.shards.files import publish, write_atomically
from mimicit.shards.tar import BLOCK, END_OF_ARCHIVE, member_span

__all__ = ["PlannedSamples", "ShardPlan", "make_plan", "planned_shards"]

_PLAN_NAME: Final = "plan.json"
_ORDER_NAME: Final = "order.npy"
_MEDIA_KEPT: Final = 1 << 14
_FILES_OF_SAMPLES: Final = """
CREATE TABLE files AS
SELECT shown.sample, unnest(media.sha256) AS sha256
FROM (SELECT sample, unnest(media) AS number FROM samples) AS shown
JOIN media ON media.number = shown.number
"""
# Each sample goes with the file of its own that most samples show, and among those with its next most shown file;
# samples whose contexts overlap so come together, whatever their number, by nothing but sorting.
_TOGETHER: Final = """
WITH shown AS (SELECT sha256, count(*) AS samples FROM files GROUP BY sha256),
ranked AS (
    SELECT files.sample, files.sha256, row_number() OVER (
        PARTITION BY files.sample ORDER BY shown.samples DESC, files.sha256
    ) AS rank
    FROM files JOIN shown USING (sha256)
),
first_three AS (
    SELECT sample, max(sha256) FILTER (rank = 1) AS first, max(sha256) FILTER (rank = 2) AS second,
        max(sha256) FILTER (rank = 3) AS third
    FROM ranked WHERE rank <= 3 GROUP BY sample
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
    """The samples of a build by their place in the order of the shards, for reading."""

    def __init__(self, work: Path) -> None:
        self._parts = [ColumnFile(path) for path in sample_parts(work)]
        self._starts = list(accumulate((part.rows for part in self._parts), initial=0))
        self.count = self._starts.pop()
        order = work / _ORDER_NAME
        self._order = np.load(order, mmap_mode="r") if order.exists() else None

    def at(self, place: int) -> tuple[ColumnFile, int]:
        """The part of SAMPLES with the sample at ``place``, and its row there."""
        sample = place if self._order is None else int(self._order[place])
        number = bisect_right(self._starts, sample) - 1
        return self._parts[number], sample - self._starts[number]


def make_plan(work: Path, config: BuildConfig) -> None:
    """Cut the chosen samples into shards, once; `BuildError` where two samples have one key."""
    if (work / _PLAN_NAME).exists():
        return
    with joins(work) as db:
        _register_samples(db, work)
        _check_keys(db)
        if config.dedupe:
            _register_media(db, work)
            with publish(work / _ORDER_NAME, scratch(work / _ORDER_NAME)) as file:
                np.save(file, _beside_alike(db))
    shards = list(_cut(work, config))
    write_atomically(work / _PLAN_NAME, [orjson.dumps([asdict(shard) for shard in shards])])


def planned_shards(work: Path) -> list[ShardPlan]:
    """All shards in order."""
    return [ShardPlan(**value) for value in orjson.loads((work / _PLAN_NAME).read_bytes())]


def _register_samples(db: duckdb.DuckDBPyConnection, work: Path) -> None:
    """The table ``samples(sample, key, media)``: a number in the order of the input, the key, and what it shows."""
    db.execute("CREATE TABLE samples(sample BIGINT, key VARCHAR, media BIGINT[])")
    start = 0
    for path in sample_parts(work):
        part = ColumnFile(path)
        columns = part.table(["key", "media"])
        numbers = pa.array(np.arange(start, start + part.rows))
        insert(db, "samples", columns.add_column(0, "sample", numbers).to_batches())
        start += part.rows


def _check_keys(db: duckdb.DuckDBPyConnection) -> None:
    """Keys hold 64 bits of a hash, so two samples with one key are all but impossible; still, never write it."""
    row = db.execute(
        "SELECT key, count(*) FROM samples GROUP BY key HAVING count(*) > 1 ORDER BY key LIMIT 1"
    ).fetchone()
    if row is not None:
        raise BuildError(f"{row[1]} samples have the same key {row[0]}; change one of their ids")


def _register_media(db: duckdb.DuckDBPyConnection, work: Path) -> None:
    """The table ``media(number, sha256)``: the checksums of the files of each medium."""
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
    """int64[samples]: the samples in an order in which those that show the same files stand together."""
    db.execute(_FILES_OF_SAMPLES)
    return db.sql(_TOGETHER).to_arrow_table().column(0).to_numpy()


def _cut(work: Path, config: BuildConfig) -> Iterator[ShardPlan]:
    samples = PlannedSamples(work)
    media = ColumnFile(work / MEDIA_NAME)

    @lru_cache(_MEDIA_KEPT)
    def files_of(number: int) -> tuple[tuple[str, int], ...]:
        """(SHA-256, bytes) of the files of a medium."""
        return tuple(zip(_checksums(media, number), media.integers("sizes", number), strict=True))

    number, first, size = 0, 0, len(END_OF_ARCHIVE)
    content = hashlib.sha256()
    seen: dict[str, int] = {}  # files that the shard holds already, where it holds each of them once
    for place in range(samples.count):
        part, row = samples.at(place)
        bytes_ = inline_size = part.number("size", row)
        files: Sequence[tuple[str, int]] = ()
        if config.dedupe:
            files = [file for medium in part.integers("media", row) for file in files_of(medium)]
            json_size = inline_size - sum(member_span(size) for _, size in files)
            bytes_ = json_size + _deduped_size(files, seen)
        count = place - first
        if count and (size + bytes_ > config.shard_bytes or count >= config.shard_samples):
            yield _shard(number, first, place, size, content.hexdigest())
            number, first, size, content, seen = number + 1, place, len(END_OF_ARCHIVE), hashlib.sha256(), {}
            bytes_ = json_size + _deduped_size(files, seen) if config.dedupe else inline_size
        size += bytes_
        seen.update(files)
        content.update(part.value("digest", row))
    if samples.count:
        yield _shard(number, first, samples.count, size, content.hexdigest())


def _shard(number: int, first: int, end: int, size: int, content: str) -> ShardPlan:
    return ShardPlan(number=number, first=first, last=end - 1, samples=end - first, bytes=size, content=content)


def _deduped_size(files: Sequence[tuple[str, int]], seen: Mapping[str, int]) -> int:
    """Bytes of the members of ``files`` in a shard that holds those in ``seen``: a link is a header alone."""
    new = {sha256: member_span(size) - BLOCK for sha256, size in files if sha256 not in seen}
    return BLOCK * len(files) + sum(new.values())
