"""The samples of a folder as the viewer asks for them: by filter, by id, by text, by picture.

A filter is a `Criteria`, as the form puts it into the address of a page. Filtering and finding an id stream the columns
of the index that they need (10^6 rows in some tenths of a second); the rows that a filter leaves are kept for the last
few filters, 8 bytes a row. Text and pictures are not indexed: `search` reads the JSON of one sample after another until
its time is up, and reports how far it came.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mimicit.errors import MimicitError, UsageError
from mimicit.inspecting.context_quality import ContextQuality, context_quality
from mimicit.inspecting.stored_samples import StoredSamples, open_samples
from mimicit.loading.samples import Where
from mimicit.records import Sample
from mimicit.shards.index import RELATIONS, index_batches
from mimicit.shards.manifest import read_manifest

_MOST_DIGITS: Final = 15

_KEPT_FILTERS: Final = 8
_COLUMNS: Final = ("source", "relations", "media", "videos", "characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """A source, a relation, a kind of media, and limits of the characters; an empty field sets no condition."""

    source: str = ""
    relation: str = ""
    kind: str = ""
    min_characters: int | None = None
    max_characters: int | None = None

    @property
    def query(self) -> str:
        """The criteria as the query part of an address, without the question mark."""
        return urlencode({name: value for name, value in asdict(self).items() if value not in ("", None)})

    def expression(self, relations: Collection[str] = RELATIONS) -> Any | None:
        """The criteria as a `pyarrow.compute.Expression`, None if there are none; `UsageError` for unknown names.

        ``relations`` are those of the folder.
        """
        return Where(
            source=self.source or None,
            relation=self.relation or None,
            kind=self.kind or None,
            min_characters=self.min_characters,
            max_characters=self.max_characters,
        ).expression(relations)


def parse_criteria(parameters: Mapping[str, str]) -> Criteria:
    """The criteria in the parameters of an address; `UsageError` if a limit is not a number."""
    return Criteria(
        source=parameters.get("source", ""),
        relation=parameters.get("relation", ""),
        kind=parameters.get("kind", ""),
        min_characters=parse_number(parameters, "min_characters"),
        max_characters=parse_number(parameters, "max_characters"),
    )


def parse_number(parameters: Mapping[str, str], name: str) -> int | None:
    """The parameter ``name`` as a whole number from 0; None if absent or empty, `UsageError` for anything else."""
    text = parameters.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise UsageError(f"{name}={text[:40]!r}: give a whole number from 0")
    return int(text)


@dataclass(frozen=True, slots=True)
class Needle:
    """A search: ``in_json`` must occur in the stored JSON in lower case (a quick test); ``fits`` then decides."""

    in_json: str
    fits: Callable[[Sample], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The rows found, up to the ``read``-th of ``total`` samples; ``unreadable`` samples were damaged."""

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
        read_manifest(path)  # its error is clearer than that of a missing index
        self.stored: StoredSamples = open_samples(path)
        assert self.stored.manifest is not None
        self.manifest = self.stored.manifest
        self.path = path
        self._rows: OrderedDict[Criteria, NDArray[np.int64]] = OrderedDict()
        self._qualities: OrderedDict[Criteria, ContextQuality] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def relations(self) -> list[str]:
        """The relations that context may have here: the built-in ones, and those of other packages' strategies."""
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
            found = context_quality(self.stored.peek, rows)  # takes a second, so without the lock
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
        """The row of the sample whose id or key is ``wanted``, if possible one of ``source``; None if there is none."""
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
        """The samples that meet ``criteria`` and fit ``needle``, from the ``start``-th that meets ``criteria`` on.

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
    wanted = sha256.casefold()
    return Needle(wanted, lambda sample: any(wanted in media.sha256 for media in sample.media))


def needle_for_triplet(id: str) -> Needle:
    """Samples that hold the triplet with this id, as context or as query."""
    return Needle(_as_stored(id), lambda sample: any(id == triplet.id for triplet in sample.triplets))


def _as_stored(text: str) -> str:
    """``text`` as it stands inside a JSON string, in lower case."""
    return orjson.dumps(text)[1:-1].decode().casefold()
