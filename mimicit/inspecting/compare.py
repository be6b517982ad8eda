"""What differs between two shard folders: how they were built, what they count, and which samples they hold.

Samples are the same if key and JSON are; the JSON has the checksum of every picture, so no picture is read. Shards of
equal content are skipped whole. Every sample of the others becomes a 40-byte record on disk (see `DiskRecords`), and
the records of both sides are joined part by part: memory does not grow with the folders.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from heapq import nsmallest
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mimicit.errors import ShardError
from mimicit.inspecting.digest_counts import DiskRecords
from mimicit.inspecting.stored_samples import StoredSamples, open_samples
from mimicit.inspecting.summary import printable
from mimicit.records import Sample, Triplet
from mimicit.shards.index import index_batches

# Digests of 16 bytes each; strings of numpy ignore zeros at the end, which is no loss if all have the same length.
_RECORD: Final = np.dtype([("key", "S16"), ("content", "S16"), ("row", "<u8"), ("source", "<u4")])
_PACKED: Final = struct.Struct("<16s16sQI")
_PROGRESS_ROWS: Final = 10_000
_OUTCOMES: Final = ("same", "changed", "lost", "gained")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A value of the manifest that differs; None if a side has none. ``name`` is its path, joined by dots."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, kw_only=True)
class SampleName:
    """A sample that only one side has, or that differs; in the latter case ``parts`` says in what."""

    key: str
    id: str
    source: str
    parts: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Comparison:
    """The differences of folder ``b`` against folder ``a``.

    ``samples`` counts ``same``, ``changed``, ``lost`` (only in a) and ``gained`` (only in b); ``sources`` does so for
    each source. ``changed``, ``lost`` and ``gained`` list the first of each in stored order. ``same_bytes`` is true
    if the shards are byte for byte the same, in the same order.
    """

    a: str
    b: str
    configuration: list[Change]
    counts: list[Change]
    same_bytes: bool
    samples: Counter[str] = field(default_factory=Counter)
    sources: dict[str, Counter[str]] = field(default_factory=dict)
    changed: list[SampleName] = field(default_factory=list)
    lost: list[SampleName] = field(default_factory=list)
    gained: list[SampleName] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.same_bytes and not (self.configuration or self.counts)

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object."""
        counted = {outcome: self.samples[outcome] for outcome in _OUTCOMES}
        sources = {name: {o: counts[o] for o in _OUTCOMES} for name, counts in sorted(self.sources.items())}
        return {"equal": self.equal, **asdict(self), "samples": counted, "sources": sources}


def compare_folders(a: Path, b: Path, *, limit: int = 10, on_progress: Progress | None = None) -> Comparison:
    """Compare two finished folders; at most ``limit`` samples of each kind are listed.

    ``on_progress`` gets the rows read so far and all rows of both. `ShardError` and its subclasses if one is not a
    folder of shards.
    """
    for path in (a, b):
        if not path.is_dir():
            raise ShardError(f"{path}: no such folder; compare takes two folders that mimicit build has written")
    folders = (open_samples(a), open_samples(b))
    try:
        return _compare(folders[0], folders[1], limit, on_progress or (lambda done, total: None))
    finally:
        for stored in folders:
            stored.close()


def _compare(a: StoredSamples, b: StoredSamples, limit: int, on_progress: Progress) -> Comparison:
    assert a.manifest is not None and b.manifest is not None  # folders have one
    result = Comparison(
        a=str(a.path),
        b=str(b.path),
        configuration=list(_changes(_configuration(a.manifest), _configuration(b.manifest))),
        counts=list(_changes(_counts(a.manifest), _counts(b.manifest))),
        same_bytes=_checksums(a.manifest) == _checksums(b.manifest),
    )
    contents = {shard["content"] for shard in a.manifest["shards"]}
    shared = contents & {shard["content"] for shard in b.manifest["shards"]}
    names: dict[str, int] = {}
    total = len(a) + len(b)
    with tempfile.TemporaryDirectory(prefix="mimicit-compare-") as scratch:
        records = (DiskRecords(Path(scratch) / "a", _RECORD), DiskRecords(Path(scratch) / "b", _RECORD))
        same = _fill(records[0], a, shared, names, lambda done: on_progress(done, total))
        _fill(records[1], b, shared, names, lambda done: on_progress(len(a) + done, total))
        for source, count in same.items():
            result.samples["same"] += count
            result.sources.setdefault(source, Counter())["same"] += count
        rows = _join(records[0], records[1], list(names), result, limit)
    result.lost = [_name(a.peek(row), a.key(row)) for row in rows["lost"]]
    result.gained = [_name(b.peek(row), b.key(row)) for row in rows["gained"]]
    result.changed = [
        _name(b.peek(other), b.key(other), _differing_parts(a.peek(row), b.peek(other)))
        for row, other in rows["changed"]
    ]
    return result


def _fill(
    records: DiskRecords,
    stored: StoredSamples,
    shared: set[str],
    names: dict[str, int],
    on_progress: Callable[[int], None],
) -> Counter[str]:
    """Add the samples that are not in shards of ``shared`` content; return the number of the others by source."""
    assert stored.manifest is not None
    skipped = [shard["content"] in shared for shard in stored.manifest["shards"]]
    same: Counter[str] = Counter()
    row = 0
    for batch in index_batches(stored.path, ["source"]):
        for source in batch.column("source").to_pylist():
            if skipped[stored.shard(row)]:
                same[source] += 1
            else:
                number = names.setdefault(source, len(names))
                key, content = _digest(stored.key(row).encode()), _digest(stored.json(row))
                records.add(_PACKED.pack(key, content, row, number))
            row += 1
            if row % _PROGRESS_ROWS == 0:
                on_progress(row)
    on_progress(row)
    return same


def _join(a: DiskRecords, b: DiskRecords, names: list[str], result: Comparison, limit: int) -> dict[str, list[Any]]:
    """Count the outcomes into ``result``; return the first rows of each but ``same``, for ``changed`` as pairs."""
    first: dict[str, list[Any]] = {"lost": [], "gained": [], "changed": []}

    def note(outcome: str, records: NDArray[Any], rows: list[Any]) -> None:
        result.samples[outcome] += len(records)
        numbers, counts = np.unique(records["source"], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            result.sources.setdefault(names[number], Counter())[outcome] += count
        if outcome in first:
            first[outcome] = nsmallest(limit, [*first[outcome], *rows])

    for mine, theirs in zip(a.parts(), b.parts(), strict=True):
        theirs = theirs[np.argsort(theirs["key"])]
        place = np.searchsorted(theirs["key"], mine["key"])
        both = place < len(theirs)
        both[both] = theirs["key"][place[both]] == mine["key"][both]
        paired, place = mine[both], place[both]
        equal = paired["content"] == theirs["content"][place]
        changed, other = paired[~equal], theirs[place][~equal]
        only_theirs = np.ones(len(theirs), np.bool_)
        only_theirs[place] = False
        note("same", paired[equal], [])
        note("changed", changed, list(zip(changed["row"].tolist(), other["row"].tolist(), strict=True)))
        note("lost", mine[~both], mine["row"][~both].tolist())
        note("gained", theirs[only_theirs], theirs["row"][only_theirs].tolist())
    return first


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _name(sample: Sample, key: str, parts: tuple[str, ...] = ()) -> SampleName:
    return SampleName(key=key, id=sample.id, source=sample.source, parts=parts)


def _differing_parts(a: Sample, b: Sample) -> tuple[str, ...]:
    """The names of the parts of a sample that differ, in the words of the format."""
    pairs = {
        "instruction": (a.query.instruction, b.query.instruction),
        "answer": (a.query.answer, b.query.answer),
        "pictures": (_checksums_shown(a, a.query), _checksums_shown(b, b.query)),
        "context": (_context(a), _context(b)),
        "meta": (a.meta, b.meta),
    }
    return tuple(name for name, (mine, theirs) in pairs.items() if mine != theirs) or ("media",)


def _checksums_shown(sample: Sample, triplet: Triplet) -> list[tuple[str, ...]]:
    """The checksums of what a triplet shows; indices beyond the media, of a hostile folder, show nothing."""
    return [sample.media[index].sha256 for index in triplet.media if index < len(sample.media)]


def _context(sample: Sample) -> list[Any]:
    return [(replace(triplet, media=()), _checksums_shown(sample, triplet)) for triplet in sample.context]


def _configuration(manifest: Mapping[str, Any]) -> dict[str, Any]:
    names = ("mimicit_version", "layout", "config", "libraries")
    return dict(_flat({**{name: manifest[name] for name in names}, "input": manifest["input"]["fingerprint"]}))


def _counts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    sources = {source["name"]: {name: source[name] for name in ("in", "out", "merged", "rejected")}
               for source in manifest["sources"]}  # fmt: skip
    return dict(_flat({"shards": len(manifest["shards"]), **manifest["totals"], "sources": sources}))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            yield Change(name=name, a=a.get(name), b=b.get(name))


def _checksums(manifest: Mapping[str, Any]) -> list[str]:
    return [shard["sha256"] for shard in manifest["shards"]]


_LONGEST_VALUE = 60


def comparison_text(comparison: Comparison) -> str:
    """The comparison as lines: configuration, counts, then samples by source and the first of each kind."""
    lines = [f"- {comparison.a}", f"+ {comparison.b}"]
    if comparison.equal:
        lines.append(f"  the same: {comparison.samples['same']:,} samples, byte for byte")
        return printable("\n".join(lines))
    lines += _change_lines("configuration", comparison.configuration)
    lines += _change_lines("counts", comparison.counts)
    counts = comparison.samples
    lines += ["", f"samples: {counts['same']:,} the same, {counts['changed']:,} changed,"
              f" {counts['lost']:,} lost, {counts['gained']:,} gained"]  # fmt: skip
    for source, found in sorted(comparison.sources.items()):
        if found["changed"] or found["lost"] or found["gained"]:
            lines.append(
                f"  {source}: {found['changed']:,} changed, {found['lost']:,} lost, {found['gained']:,} gained"
            )
    for sign, what, names in (("~", "changed", comparison.changed), ("-", "lost", comparison.lost),
                              ("+", "gained", comparison.gained)):  # fmt: skip
        lines += _names(sign, names, counts[what])
    if not (counts["changed"] or counts["lost"] or counts["gained"] or comparison.same_bytes):
        lines.append("  the same samples, in another order or in other shards")
    return printable("\n".join(lines))


def _change_lines(title: str, changes: list[Change]) -> Iterator[str]:
    if changes:
        yield ""
        yield title
        width = max(len(change.name) for change in changes)
        for change in changes:
            yield f"  {change.name:<{width}}  {_short(change.a)} -> {_short(change.b)}"


def _names(sign: str, names: list[SampleName], count: int) -> Iterator[str]:
    for name in names:
        parts = f": {', '.join(name.parts)}" if name.parts else ""
        yield f"{sign} {name.source} {name.id} ({name.key}){parts}"
    if count > len(names) > 0:
        yield f"{sign} ... and {count - len(names):,} more (--limit)"


def _short(value: Any) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
