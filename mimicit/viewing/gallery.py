"""The samples of a folder as the viewer asks for them: by filter, by id, by text, by picture.

Filters and ids stream the columns of the index that they need (10^6 rows in some tenths of a second); the rows that a
filter leaves are kept for the last few filters, 8 bytes a row. Text and pictures are not indexed: `search` reads the
JSON of one sample after another until its time is up, and says how far it came.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mimicit.errors import MimicitError
from mimicit.inspecting.context_quality import ContextQuality, context_quality
from mimicit.inspecting.stored_samples import StoredSamples, open_samples
from mimicit.records import Sample
from mimicit.shards.index import RELATIONS, index_batches
from mimicit.shards.manifest import read_manifest
from mimicit.viewing.criteria import Criteria

__all__ = ["Found", "Gallery", "Needle", "needle_for_picture", "needle_for_text", "needle_for_triplet"]

_KEPT_FILTERS: Final = 8
_COLUMNS: Final = ("source", "relations", "media", "videos", "characters")


@dataclass(frozen=True, slots=True)
class Needle:
    """What is searched for: ``in_json`` is a quick test of the stored JSON in lower case, ``fits`` the true one."""

    in_json: str
    fits: Callable[[Sample], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The rows found, how many samples were read up to now, and of how many; ``unreadable`` of them were damaged."""

    rows: list[int]
    read: int
    total: int
    unreadable: int

    @property
    def is_through(self) -> bool:
        """Whether no sample is left to read."""
        return self.read >= self.total


class Gallery:
    """The finished folder at ``path``; may be shared by threads."""

    def __init__(self, path: Path) -> None:
        read_manifest(path)  # a better message than that of a missing index
        self.stored: StoredSamples = open_samples(path)
        assert self.stored.manifest is not None
        self.manifest = self.stored.manifest
        self.path = path
        self._rows: OrderedDict[Criteria, NDArray[np.int64]] = OrderedDict()
        self._qualities: OrderedDict[Criteria, ContextQuality] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def relations(self) -> list[str]:
        """The relations that context may have here: ours, and those of strategies of other packages."""
        return [*RELATIONS, *sorted(self.manifest["totals"]["relations"].keys() - set(RELATIONS))]

    def rows(self, criteria: Criteria) -> Sequence[int] | NDArray[np.int64]:
        """The rows that meet ``criteria``, ascending; errors as `Criteria.expression`."""
        expression = criteria.expression(self.relations)
        if expression is None:
            return range(len(self.stored))
        with self._lock:
            rows = self._rows.get(criteria)
            if rows is None:
                rows = self._rows[criteria] = self._filter(expression)
                if len(self._rows) > _KEPT_FILTERS:
                    self._rows.popitem(last=False)
            self._rows.move_to_end(criteria)
        return rows

    def quality(self, criteria: Criteria) -> ContextQuality:
        """What the context of the samples that meet ``criteria`` is like; kept for the last few filters."""
        rows = self.rows(criteria)
        with self._lock:
            found = self._qualities.pop(criteria, None)
        if found is None:
            found = context_quality(self.stored.peek, rows)  # a second; other pages need not wait for it
        with self._lock:
            self._qualities[criteria] = found
            if len(self._qualities) > _KEPT_FILTERS:
                self._qualities.popitem(last=False)
        return found

    def _filter(self, expression: pc.Expression) -> NDArray[np.int64]:
        parts = [np.empty(0, np.int64)]
        start = 0
        for batch in index_batches(self.path, _COLUMNS):
            numbered = pa.table({**dict(zip(batch.schema.names, batch.columns, strict=True)),
                                 "_row": np.arange(start, start + len(batch))})  # fmt: skip
            parts.append(numbered.filter(expression)["_row"].to_numpy())
            start += len(batch)
        return np.concatenate(parts)

    def locate(self, wanted: str, source: str = "") -> int | None:
        """The row of the sample whose id or key is ``wanted``, of ``source`` where several have the id."""
        first = None
        start = 0
        for batch in index_batches(self.path, ["id", "key", "source"]):
            hits = pc.or_(pc.equal(batch.column("id"), wanted), pc.equal(batch.column("key"), wanted))
            for row in np.flatnonzero(hits.to_numpy(zero_copy_only=False)).tolist():
                if source in ("", batch.column("source")[row].as_py()):
                    return start + row
                first = start + row if first is None else first
            start += len(batch)
        return first

    def search(self, needle: Needle, criteria: Criteria, *, start: int, most: int, seconds: float) -> Found:
        """The samples among those of ``criteria`` that the needle fits, from the ``start``-th on.

        Ends after ``most`` of them, after ``seconds``, or with the last sample.
        """
        rows = self.rows(criteria)
        end = time.monotonic() + seconds
        found: list[int] = []
        unreadable = 0
        place = min(start, len(rows))
        while place < len(rows) and len(found) < most and (place == start or time.monotonic() < end):
            row = int(rows[place])
            place += 1
            try:
                stored = self.stored.json(row).decode(errors="replace").casefold()
                if needle.in_json in stored and needle.fits(self.stored.peek(row)):
                    found.append(row)
            except MimicitError:
                unreadable += 1
        return Found(rows=found, read=place, total=len(rows), unreadable=unreadable)


def needle_for_text(text: str) -> Needle:
    """Samples with ``text`` in an id, an instruction or an answer, whatever the case."""
    wanted = text.casefold()

    def fits(sample: Sample) -> bool:
        return any(wanted in f"{t.instruction}\n{t.answer}\n{t.id}".casefold() for t in sample.triplets)

    return Needle(_as_stored(text), fits)


def needle_for_picture(sha256: str) -> Needle:
    """Samples that show the picture or frame with this checksum."""
    return Needle(sha256.casefold(), lambda sample: any(sha256 in media.sha256 for media in sample.media))


def needle_for_triplet(id: str) -> Needle:
    """Samples that hold the triplet with this id, as context or as query."""
    return Needle(_as_stored(id), lambda sample: any(id == triplet.id for triplet in sample.triplets))


def _as_stored(text: str) -> str:
    """``text`` as it stands inside a JSON string, in lower case."""
    return orjson.dumps(text)[1:-1].decode().casefold()
