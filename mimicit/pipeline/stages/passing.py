"""Which records pass: their media are sound, pass their source's filters, and look like none that was kept before.

Most records lose no media, and are checked by columns. The others are checked one by one: a document keeps the rest of
its media, any other record is rejected if one medium is lost.

Each query has a sampling key, a hash of the seed and its id. A weight keeps the keys below that share of all keys, a
limit keeps the smallest keys; so a larger weight or limit only adds queries, and a query's key depends neither on other
records nor on other sources. Records that are not drawn stay usable as context.

Pictures that look like an earlier one are found by multi-index hashing of their fingerprints, on disk. A fingerprint of
64 bits is cut into 4 bands of 16. If two differ in at most *d* bits, at least one of their bands differs in at most
*d* / 4. So it is enough to look up each band and the values near it (4 look-ups for *d* up to 3, 68 up to 7 and 548 up
to 11), and to count the differing bits of what is found there.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from mimicit.media.image import distance
from mimicit.pipeline.config import BuildConfig, SourceRules
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.ragged import Numbers, flat, list_array, sums
from mimicit.pipeline.rejects import Phase, RejectWriter
from mimicit.pipeline.stages.filters import MediaFacts, media_fault
from mimicit.pipeline.stages.resolve import open_records
from mimicit.pipeline.tables import MEDIA_NAME, MEDIA_REFERENCES_NAME, RESOLVED, RESOLVED_NAME
from mimicit.progress import Progress
from mimicit.schema import canonical_json
from mimicit.shards.reader import MAX_SAMPLE_BYTES
from mimicit.sources.items import Reject

_BANDS: Final = struct.Struct(">4H")
_BANDS_PER_FINGERPRINT: Final = 4
_BAND_BITS: Final = 16
_TABLE: Final = """
CREATE TABLE look(
    band INTEGER NOT NULL, bits INTEGER NOT NULL, medium INTEGER NOT NULL, fingerprint BLOB NOT NULL,
    PRIMARY KEY(band, bits, medium)
) WITHOUT ROWID
"""

_OUTCOMES_KEPT: Final = 1 << 14
_MAX_MEDIA_BYTES: Final = MAX_SAMPLE_BYTES - (64 << 20)  # of a sample, which leaves room for its text
PASSED: Final = pa.schema(
    [
        # RESOLVED without the records that are rejected for their media.
        *(field for field in RESOLVED if field.name != "media"),
        ("media", pa.list_(pa.int64())),  # those that are shown; for equal media, the first
        ("shown", pa.large_string()),
        ("parts", pa.large_binary()),  # of a document that has lost media, else null
        ("says", pa.binary(16)),  # equal for records that say and show the same; null if these are not merged
        ("sampling_key", pa.int64()),  # null if the source keeps all its queries
    ]
)
"""The intermediate table of the filter stage."""
SAMPLING_KEYS: Final = 1 << 63
"""Keys are below this, from 0 on."""


class LookAlikes:
    """The pictures that were kept so far, in a private file; ``most`` is the largest distance in bits."""

    def __init__(self, most: int) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # closing the connection removes the file
        self._most = most
        flips = range(most // _BANDS_PER_FINGERPRINT + 1)
        self._masks = [sum(1 << bit for bit in bits) for n in flips for bits in combinations(range(_BAND_BITS), n)]
        self._db.execute(_TABLE)
        self._db.execute("BEGIN")

    def add(self, medium: int, fingerprint: bytes) -> None:
        """Keep a picture; keeping it again changes nothing."""
        self._db.executemany(
            "INSERT OR IGNORE INTO look VALUES (?, ?, ?, ?)",
            [(band, bits, medium, fingerprint) for band, bits in enumerate(_BANDS.unpack(fingerprint))],
        )

    def find(self, medium: int, fingerprint: bytes) -> int | None:
        """The kept picture with the smallest number that looks like this one.

        ``None`` if there is none, or if ``medium`` itself is kept.
        """
        wanted = int.from_bytes(fingerprint, "big")
        found: int | None = None
        for band, bits in enumerate(_BANDS.unpack(fingerprint)):
            for mask in self._masks:
                rows = self._db.execute(
                    "SELECT medium, fingerprint FROM look WHERE band = ? AND bits = ?", (band, bits ^ mask)
                )
                for other, kept in rows:
                    if other == medium:
                        return None
                    if (found is None or other < found) and distance(wanted, int.from_bytes(kept, "big")) <= self._most:
                        found = other
        return found


class _Lost(NamedTuple):
    """Why a medium cannot or must not be shown."""

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
class FilteredSource:
    """A source and its rules."""

    name: str
    rules: SourceRules

    @property
    def draws(self) -> bool:
        """Whether only some of its queries may be kept."""
        return self.rules.limit is not None or self.rules.weight < 1

    @property
    def most_bytes(self) -> int:
        """How many bytes the stored media of one of its records may take."""
        return _MAX_MEDIA_BYTES // (self.rules.shots + 1)


class Judge:
    """Decides for every record, in the order of the input, whether its media can be shown."""

    def __init__(
        self, work: Path, sources: Sequence[FilteredSource], config: BuildConfig, rejects: RejectWriter
    ) -> None:
        self._work = work
        self._sources = sources
        self._config = config
        self._rejects = rejects
        self._media = ColumnFile(work / MEDIA_NAME)
        self._references = ColumnFile(work / MEDIA_REFERENCES_NAME)
        self._records = lru_cache(1)(lambda part: open_records(work, part))
        distance = config.near_duplicates
        self._look_alikes = None if distance is None else LookAlikes(distance)
        self._medium = lru_cache(_OUTCOMES_KEPT)(self._verdict)
        self._size = lru_cache(_OUTCOMES_KEPT)(lambda number: sum(self._media.integers("sizes", number)))

    def passed(self, progress: Progress) -> Iterator[pa.RecordBatch]:
        """The rows of PASSED; writes the rejects of the records that do not pass."""
        for first, batch in ColumnFile(self._work / RESOLVED_NAME).batches():
            progress.update("filter", first, None)
            numbers = batch.column("source").to_numpy()
            for start, end in pairwise([0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]):
                yield self._passed(batch.slice(start, end - start), self._sources[int(numbers[start])])

    def _passed(self, batch: pa.RecordBatch, source: FilteredSource) -> pa.RecordBatch:
        """The rows of PASSED for ``batch``, which are records of one source."""
        media, counts = flat(batch.column("media"), np.arange(batch.num_rows))
        numbers, places = np.unique(media, return_inverse=True)
        same_as, sizes, is_lost = self._facts(numbers, source)
        may_lose = (sums(is_lost[places], counts) > 0) | (sums(sizes[places], counts) > source.most_bytes)
        media = same_as[places]
        parts = pa.nulls(batch.num_rows, pa.large_binary())
        if self._look_alikes is not None:
            may_lose[:] = True
        if may_lose.any():
            batch, media, counts, parts = self._one_by_one(batch, media, counts, np.flatnonzero(may_lose))
        shown = self._digests_shown(media, counts)
        keys = [sampling_key(self._config.seed, id) for id in batch.column("id").to_pylist()] if source.draws else None
        columns: dict[str, Any] = {
            **{name: batch.column(name) for name in batch.schema.names},
            "media": list_array(pa.array(media), counts),
            "shown": shown,
            "parts": parts,
            "says": pa.array(self._says(batch, shown, parts), pa.binary(16)),
            "sampling_key": pa.nulls(batch.num_rows, pa.int64()) if keys is None else pa.array(keys, pa.int64()),
        }
        return pa.record_batch([columns[name] for name in PASSED.names], schema=PASSED)

    def _facts(self, numbers: Numbers, source: FilteredSource) -> tuple[Numbers, Numbers, Numbers]:
        """(the first medium of the same content, the bytes of its stored files, 1 if it is lost) of each medium."""
        if not len(numbers):
            return numbers, numbers, numbers
        found = self._media.take(["same_as", "sizes"], numbers)
        same_as: Numbers = found.column("same_as").to_numpy()
        sizes = sums(*flat(found.column("sizes"), np.arange(len(numbers))))
        is_lost = (same_as < 0).astype(np.int64)
        if source.rules.filters.limits_media:
            of_source = self._sources.index(source)
            is_lost[:] = [isinstance(self._medium(of_source, number), _Lost) for number in numbers.tolist()]
        return same_as, sizes, is_lost

    def _one_by_one(
        self, batch: pa.RecordBatch, media: Numbers, counts: Numbers, rows: Numbers
    ) -> tuple[pa.RecordBatch, Numbers, Numbers, pa.Array]:
        """(``batch`` without the rejected ones of ``rows``, the media that are shown, their counts, the parts)."""
        lists: list[Sequence[int]] = [media.tolist() for media in np.split(media, np.cumsum(counts)[:-1])]
        parts: list[bytes | None] = [None] * len(lists)
        kept = np.ones(len(lists), np.bool_)
        some = batch.take(pa.array(rows))
        for place, *cells in zip(
            rows.tolist(), *(some.column(name).to_pylist() for name in _Resolved._fields), strict=True
        ):
            outcome = self._outcome(_Resolved(*cells))
            if outcome is None:
                kept[place] = False
            else:
                lists[place], parts[place] = outcome
        left = np.flatnonzero(kept)
        shown = [lists[place] for place in left.tolist()]
        return (
            batch.take(pa.array(left)),
            np.array([number for media in shown for number in media], np.int64),
            np.array([len(media) for media in shown], np.int64),
            pa.array([parts[place] for place in left.tolist()], pa.large_binary()),
        )

    def _digests_shown(self, media: Numbers, counts: Numbers) -> pa.Array:
        """The contents of the media of each record, with commas between them."""
        if not len(media):
            return pa.array([""] * len(counts), pa.large_string())
        numbers, places = np.unique(media, return_inverse=True)
        contents = self._media.take(["content"], numbers).column(0).cast(pa.string()).take(pa.array(places))
        return pc.binary_join(list_array(contents, counts), ",").cast(pa.large_string())

    def _says(self, batch: pa.RecordBatch, shown: pa.Array, parts: pa.Array) -> list[bytes | None]:
        """Digests that are equal for records to be merged; None for turns of a conversation, which never are."""
        merging = self._config.duplicate_triplets
        if merging == "keep":
            return [None] * batch.num_rows
        said: list[bytes | None] = []
        names = ["conversation", "instruction", "answer", "parts"]
        for texts in of_records(self._records, names, batch):
            some = [
                column.slice(len(said), texts.num_rows).to_pylist() for column in (batch.column("source"), shown, parts)
            ]
            for source, contents, left, talk, *says, whole in zip(
                *some, *(column.to_pylist() for column in texts.columns), strict=True
            ):
                scope = None if merging == "merge-all" else source
                value = [scope, contents, *says, (whole if left is None else left).decode()]
                said.append(None if talk else hashlib.blake2b(canonical_json(value), digest_size=16).digest())
        return said

    def _outcome(self, row: _Resolved) -> tuple[list[int], bytes | None] | None:
        """The media that the record shows, and its parts if it lost some; None if it is rejected."""
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
            for place, fault in enumerate(lost):  # a document does without them if it has another
                self._reject(row, place, fault, "media")
            parts = orjson.dumps(_parts_without(orjson.loads(parts), outcomes))
        most = self._sources[row.source].most_bytes
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
        return usable, parts

    def _verdict(self, source: int, number: int) -> int | _Lost:
        """The first medium of the same content as ``number``, to show in its place; or why it is not shown."""
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
    """The parts of a document, each with the count of its usable media."""
    left: list[tuple[int, str]] = []
    start = 0
    for count, text in parts:
        shown = outcomes[start : start + count]
        left.append((sum(not isinstance(outcome, _Lost) for outcome in shown), text))
        start += count
    return left


def of_records(
    records: Callable[[int], ColumnFile], names: Sequence[str], rows: pa.RecordBatch
) -> Iterator[pa.RecordBatch]:
    """The columns ``names`` of RECORDS for ``rows`` (with columns part and row), in order; ``records`` opens a part."""
    parts, places = (rows.column(name).to_numpy() for name in ("part", "row"))
    for start, end in pairwise([0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(parts)]):
        if start < end:
            yield from records(int(parts[start])).taken(names, places[start:end])


def sampling_key(seed: int, id: str) -> int:
    """63 random bits that depend on the seed and the id alone."""
    digest = hashlib.blake2b(f"{seed}\0lot\0{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % SAMPLING_KEYS
