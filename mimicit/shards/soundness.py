"""What a sound folder of shards is: one definition, for both `mimicit verify` and `mimicit.load`.

Three separate parts: the manifest by itself, the index compared with the manifest, and one sample by itself.
`mimicit verify` reports all faults, `mimicit.load` raises the first that it meets.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mimicit.errors import CorruptShardError
from mimicit.prompt import IMAGE
from mimicit.records import Sample
from mimicit.shards.index import INDEX_NAME, checked_batches, repeated_key
from mimicit.shards.manifest import MANIFEST_NAME
from mimicit.shards.reader import MAX_SAMPLE_BYTES
from mimicit.shards.tar import BLOCK, END_OF_ARCHIVE

_FOREIGN: Final = "foreign"
_SUMMED: Final = ("triplets", "media", "frames", "characters")
_SHOWN: Final = 100


# The manifest


def manifest_faults(manifest: Mapping[str, Any]) -> Iterator[str]:
    """How a manifest that matches its schema contradicts itself."""
    shards, totals, sources = manifest["shards"], manifest["totals"], manifest["sources"]
    names = [shard["name"] for shard in shards]
    yield from (f"lists {name} twice" for name in _repeated(names))
    if manifest["layout"] != _FOREIGN:
        for digest in _repeated([shard["sha256"] for shard in shards]):
            same = [shard["name"] for shard in shards if shard["sha256"] == digest]
            yield f"lists one shard under several names: {', '.join(same)}"
        width = max(3, len(str(len(names) - 1)))
        for number, name in enumerate(names):
            if name != f"shard-{number:0{width}d}.tar":
                yield f"lists {name} where shard-{number:0{width}d}.tar is expected; a shard is missing"
                break
    for name in ("samples", "bytes"):
        if totals[name] != (found := sum(shard[name] for shard in shards)):
            yield f"totals: {name} is {totals[name]:,}; its shards have {found:,}"
    yield from (f"lists the source {name!r} twice" for name in _repeated([source["name"] for source in sources]))
    for source in sources:
        accounted = source["out"] + source["merged"] + sum(source["rejected"].values())
        if source["in"] != accounted:
            yield f"source {source['name']!r}: {source['in']:,} records in, {accounted:,} accounted for"
    if (found := sum(source["out"] for source in sources)) != totals["samples"]:
        yield f"sources: {found:,} samples out; totals say {totals['samples']:,}"
    if INDEX_NAME not in manifest["files"]:
        yield f"files: has no checksum of {INDEX_NAME}"
    for name in manifest["files"].keys() & {MANIFEST_NAME, *names}:
        yield f"files: lists {name}, which is none of the other files"


def _repeated(values: Sequence[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


# The index compared with the manifest


def index_faults(path: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Where the index at ``path`` contradicts ``manifest`` or itself; each kind of fault once.

    `CorruptShardError` if it is unreadable, or does not have the columns of an index. Holds some ten thousand rows.
    """
    check = _IndexCheck(manifest)
    for batch in checked_batches(path, has_json=manifest["layout"] == _FOREIGN):
        yield from check.batch(batch)
        if check.is_hopeless:
            return
    yield from check.end()
    repeated = repeated_key(path, rows=check.rows, within_shards=manifest["layout"] == _FOREIGN)
    if repeated is not None:
        yield f"several samples have the key {repeated!r}"


class _IndexCheck:
    """Checks an index batch by batch; holds what the rows so far add up to."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self._manifest = manifest
        self._is_foreign = manifest["layout"] == _FOREIGN
        self._names = [shard["name"] for shard in manifest["shards"]]
        self._bytes = np.array([shard["bytes"] for shard in manifest["shards"]], np.int64)
        self._counts = np.zeros(len(self._names), np.int64)
        self._last_shard, self._last_end = -1, 0
        self._sums: Counter[str] = Counter()
        self._relations: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._said: set[str] = set()
        self.rows = 0
        self.is_hopeless = False
        """Whether a fault was found after which the rest cannot be checked."""

    def batch(self, batch: pa.RecordBatch) -> Iterator[str]:
        """The faults of the next rows."""
        numbers = pc.index_in(batch.column("shard"), pa.array(self._names, pa.string()))
        if numbers.null_count:
            row = pc.index(numbers.is_null(), True).as_py()
            yield f"names {batch.column('shard')[row].as_py()!r}, which is no shard of the manifest"
            self.is_hopeless = True
            return
        if not batch.num_rows:
            return
        shards = numbers.to_numpy(zero_copy_only=False).astype(np.int64)
        counts = _numbers(pc.list_value_length(batch.column("member_offsets")))
        offsets, sizes = (_numbers(batch.column(name).flatten()) for name in ("member_offsets", "member_sizes"))
        starts, spans = _numbers(batch.column("offset")), _numbers(batch.column("size"))

        def faulty(rows: NDArray[np.bool_], words: str) -> Iterator[str]:
            if rows.any() and words not in self._said:
                self._said.add(words)
                yield f"{batch.column('key')[int(np.flatnonzero(rows)[0])].as_py()!r}: {words}"

        least = 0 if self._is_foreign else 1
        uneven = (counts != _numbers(pc.list_value_length(batch.column("member_sizes")))) | (counts < least)
        if uneven.any():
            yield from faulty(uneven, "does not have as many sizes as offsets of members, or has none")
            self.is_hopeless = True
            return
        room = self._bytes[shards]
        inside = _within(offsets, sizes, np.repeat(room, counts))
        rows_of_members = np.repeat(np.arange(len(counts)), counts)
        outside = np.zeros(len(counts), np.bool_)
        outside[rows_of_members[~inside]] = True
        outside |= ~_within(starts, spans, room)
        if outside.any():
            yield from faulty(outside, f"its members do not lie inside {self._names[shards[np.argmax(outside)]]}")
            self.is_hopeless = True
            return
        yield from faulty(_sums(sizes, counts) > MAX_SAMPLE_BYTES, f"has more than {MAX_SAMPLE_BYTES:,} bytes")
        if not self._is_foreign:
            yield from self._tiling(shards, starts, spans, counts, offsets, sizes, faulty)
        before = np.concatenate(([self._last_shard], shards[:-1]))
        yield from faulty(shards < before, "its shard is out of order")
        self._last_shard, self._last_end = int(shards[-1]), int(starts[-1] + spans[-1])
        self._counts += np.bincount(shards, minlength=len(self._names))
        self.rows += batch.num_rows
        values = {name: _numbers(batch.column(name)) for name in (*_SUMMED, "videos")}
        wrong = (values["triplets"] < 1) | (values["frames"] != counts - least) | (values["characters"] < 0)
        wrong |= (values["media"] > values["frames"]) | (values["videos"] > values["media"]) | (values["videos"] < 0)
        yield from faulty(wrong, "its counts of triplets, media or frames cannot be")
        for name in _SUMMED:
            self._sums[name] += int(values[name].sum())
        relations = batch.column("relations")
        for place, field in enumerate(relations.type):
            self._relations[field.name] += pc.sum(relations.field(place)).as_py() or 0
        for entry in pc.value_counts(batch.column("source")).to_pylist():
            self._sources[entry["values"]] += entry["counts"]

    def _tiling(
        self,
        shards: NDArray[np.int64],
        starts: NDArray[np.int64],
        spans: NDArray[np.int64],
        counts: NDArray[np.int64],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        faulty: Any,
    ) -> Iterator[str]:
        """Faults unless samples and members follow each other without a gap, and the end mark ends the shard."""
        ends = starts + spans
        before = np.concatenate(([self._last_shard], shards[:-1]))
        ends_before = np.concatenate(([self._last_end], ends[:-1]))
        wanted = np.where(shards == before, ends_before, 0)
        yield from faulty(starts != wanted, "does not begin where the sample before it ends")
        for number, end in zip(before[shards != before], ends_before[shards != before], strict=True):
            yield from self._end_mark(int(number), int(end))
        first = np.cumsum(counts) - counts  # the first member of each row is its JSON
        misplaced = offsets[first] != starts + BLOCK
        if self._manifest["layout"] == "inline":
            places = BLOCK + sizes + (-sizes % BLOCK)
            before_members = np.cumsum(places) - places
            within = before_members - np.repeat(before_members[first], counts)
            wrong = offsets != np.repeat(starts, counts) + within + BLOCK
            misplaced[np.repeat(np.arange(len(counts)), counts)[wrong]] = True
            misplaced |= _sums(places, counts) != spans
        else:
            late = offsets + sizes > np.repeat(ends, counts)  # hard links lead back
            misplaced[np.repeat(np.arange(len(counts)), counts)[late]] = True
        yield from faulty(misplaced, "its members do not follow each other as in a shard")

    def _end_mark(self, shard: int, end: int) -> Iterator[str]:
        if shard >= 0 and (wanted := end + len(END_OF_ARCHIVE)) != self._bytes[shard]:
            says = int(self._bytes[shard])
            yield f"{self._names[shard]} ends at byte {wanted:,} with its end mark; the manifest says {says:,} bytes"

    def end(self) -> Iterator[str]:
        """The faults that show only after the last row."""
        if not self._is_foreign:
            yield from self._end_mark(self._last_shard, self._last_end)
        for shard, count in zip(self._manifest["shards"], self._counts.tolist(), strict=True):
            if shard["samples"] != count:
                yield f"lists {count} samples of {shard['name']}; the manifest says {shard['samples']}"
        totals = self._manifest["totals"]
        for name in _SUMMED:
            if totals[name] != self._sums[name]:
                yield f"has {self._sums[name]:,} {name}; the manifest's totals say {totals[name]:,}"
        found = {name: count for name, count in self._relations.items() if count}
        if found != {name: count for name, count in totals["relations"].items() if count}:
            yield f"has the relations {found}; the manifest's totals say {totals['relations']}"
        out = {source["name"]: source["out"] for source in self._manifest["sources"]}
        for name in sorted(self._sources.keys() | out.keys())[:_SHOWN]:
            if out.get(name, 0) != self._sources[name]:
                says = out.get(name, 0)
                yield f"has {self._sources[name]:,} samples of {name!r}; the manifest's sources say {says:,}"


def _numbers(column: pa.Array) -> NDArray[np.int64]:
    values: NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64)
    return values


def _within(starts: NDArray[np.int64], sizes: NDArray[np.int64], room: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which spans lie within their ``room`` (bytes); written so that no sum overflows."""
    found: NDArray[np.bool_] = (
        (starts >= 0) & (sizes >= 0) & (sizes <= room) & (starts <= room - np.minimum(sizes, room))
    )
    return found


def _sums(values: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of ``values`` for each row; ``counts`` says how many values each row has."""
    running = np.concatenate(([0], np.cumsum(values)))
    ends = np.cumsum(counts)
    sums: NDArray[np.int64] = running[ends] - running[ends - counts]
    return sums


# One sample


def sample_faults(sample: Sample, key: str | None = None) -> Iterator[str]:
    """What is wrong inside a sample that matches its schema; `mimicit.media.image` checks its pictures.

    ``key`` is the key it is stored under; None for shards that others made, whose keys are their own.
    """
    if key is not None and key != sample.key:
        yield f"its key should be {sample.key!r}, by source and id"
    triplets, media = sample.triplets, sample.media
    if triplets[-1].role != "query" or any(triplet.role != "context" for triplet in triplets[:-1]):
        yield "the query must be the last triplet, and the only one"
    used = [index for triplet in triplets for index in triplet.media]
    if used != list(range(len(media))):
        yield f"its triplets show media {used[:_SHOWN]}; each of the {len(media)} media once, in order, is right"
    number = 0
    for place, medium in enumerate(media):
        if medium.timestamps_s is not None and len(medium.timestamps_s) != len(medium.files):
            yield f"media[{place}] has {len(medium.files)} frames and {len(medium.timestamps_s)} timestamps"
        if len(medium.files) != len(medium.sha256):
            yield f"media[{place}] has {len(medium.files)} files and {len(medium.sha256)} checksums"
        for file in medium.files:
            if file.partition(".")[0] != f"{number:03d}":
                yield f"media[{place}] has the file {file} where number {number} is expected"
            number += 1
    for place, triplet in enumerate(triplets):
        if IMAGE in triplet.instruction:
            yield f"triplets[{place}] has a placeholder {IMAGE} in its instruction"


def checksum_faults(sample: Sample) -> Iterator[str]:
    """The files of a sample whose bytes do not match their checksum."""
    for media in sample.media:
        for name, data, checksum in zip(media.files, media.data, media.sha256, strict=False):
            if hashlib.sha256(data).hexdigest() != checksum:
                yield f"the bytes of {name} do not match their sha256"


def refuse(faults: Iterator[str], where: str) -> None:
    """Raise `CorruptShardError` for the first of ``faults``, if there is one."""
    for fault in faults:
        raise CorruptShardError(f"{where}: {fault}")
