"""A folder of shards as a sequence of `Sample`s in some order, with random access by position and by key.

The object holds no position, so it can be shared, pickled into workers, and asked for any position in any order.

Which samples take part, a filter on the columns of the index (`Where`), is decided before anything is ordered.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_, or_
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mimicit.errors import UsageError, hint, nearest
from mimicit.loading.order import Order, Shuffle, digest
from mimicit.loading.quarantine import OnError, Quarantine
from mimicit.loading.storage.store import Check, Store
from mimicit.records import Sample
from mimicit.shards.index import INDEX_SCHEMA, RELATIONS

_KINDS = ("image", "text", "video")
_COUNTED = ("triplets", "media", "frames", "characters")
_PLACES = ("shard", "offset", "size", "member_offsets", "member_sizes")  # change when a folder is only cut differently
_NAMED = 8  # sources in an error
_COLUMNS = [name for name in INDEX_SCHEMA.names if name not in _PLACES]

Value = TypeVar("Value")

_ROWS_AT_ONCE: Final = 1024  # an order costs 0.1 ms a call and 0.05 µs an index


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Conditions that a sample must all meet; a field that is None sets no condition.

    ``source``, ``relation`` and ``kind`` take one name or several, of which one must fit: the source, a relation that
    one of its context triplets has, or what it shows (``image``: at least one picture, ``video``: at least one clip,
    ``text``: no media). The limits are inclusive, and count as the index does: ``frames`` are all pictures and video
    frames, ``characters`` those of all instructions and answers.
    """

    source: str | Collection[str] | None = None
    relation: str | Collection[str] | None = None
    kind: str | Collection[str] | None = None
    min_triplets: int | None = None
    max_triplets: int | None = None
    min_media: int | None = None
    max_media: int | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    min_characters: int | None = None
    max_characters: int | None = None

    def __post_init__(self) -> None:
        for name in _names(self.relation):  # strategies of other packages make relations of their own
            if nearest(name, RELATIONS):
                _check_names("relation", [name], RELATIONS)
        _check_names("kind", _names(self.kind), _KINDS)

    def expression(self, relations: Collection[str] = RELATIONS) -> Any | None:
        """The conditions as one `pyarrow.compute.Expression`; None if there are none.

        ``relations`` are those that the index counts; `UsageError` if a condition names another.
        """
        _check_names("relation", _names(self.relation), relations)
        tests = []
        if self.source is not None:
            tests.append(pc.field("source").isin(_names(self.source)))
        if self.relation is not None:
            tests.append(_any([pc.field("relations", name) > 0 for name in _names(self.relation)]))
        if self.kind is not None:
            tests.append(_any([_shows(name) for name in _names(self.kind)]))
        for name in _COUNTED:
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if least is not None:
                tests.append(pc.field(name) >= least)
            if most is not None:
                tests.append(pc.field(name) <= most)
        return reduce(and_, tests) if tests else None


Condition: TypeAlias = Where | Mapping[str, Any] | pc.Expression
"""`Where`, its fields as a mapping (from a configuration file, say), or any Arrow expression over the index."""


def select_rows(store: Store, condition: Condition | None) -> NDArray[np.int64] | None:
    """The rows that meet ``condition``, ascending; None for all of them.

    An Arrow expression may use the columns of ``mimicit.shards.index.INDEX_SCHEMA`` that do not say where a sample
    lies; a row for which it is null is left out. `UsageError` if it cannot be computed, or nothing is left.
    """
    if isinstance(condition, Mapping):
        _check_names("where", condition, [field.name for field in dataclasses.fields(Where)])
        condition = Where(**condition)
    if condition is None or (isinstance(condition, Where) and condition == Where()):
        return None
    table = store.columns(_COLUMNS)
    counted = [field.name for field in table.schema.field("relations").type]
    expression = condition.expression(counted) if isinstance(condition, Where) else condition
    numbered = table.append_column("_row", pa.array(np.arange(table.num_rows)))
    try:
        rows: NDArray[np.int64] = numbered.filter(expression)["_row"].to_numpy()
    except (pa.ArrowException, TypeError) as error:
        raise UsageError(f"where={expression}: {error}; the index has {', '.join(_COLUMNS)}") from None
    if not rows.size:
        sources = sorted(set(table["source"].unique().to_pylist()))
        there = f"its sources are {', '.join(sources[:_NAMED])}{', …' * (len(sources) > _NAMED)}"
        asked = f"where={_in_words(condition)}"
        raise UsageError(f"{store.location}: none of {table.num_rows:,} samples meets {asked}; {there}")
    return rows


def _in_words(condition: Condition) -> str:
    """Only what is set of a `Where`."""
    if not isinstance(condition, Where):
        return str(condition)
    return str({name: value for name, value in dataclasses.asdict(condition).items() if value is not None})


def _any(tests: list[Any]) -> Any:
    return reduce(or_, tests, pc.scalar(False))


def _shows(kind: str) -> Any:
    if kind == "text":
        return pc.field("media") == 0
    return pc.field("videos") > 0 if kind == "video" else pc.field("media") > pc.field("videos")


def _names(value: str | Collection[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else sorted(value or ())


def _check_names(what: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"{what}: {name!r} is not known; {hint(name, known)}")


def load(
    shards: str | Path,
    *,
    shuffle: Shuffle = None,
    seed: int = 0,
    where: Condition | None = None,
    on_error: OnError | Quarantine = "raise",
    check: Check = "size",
    cache_dir: str | Path | None = None,
    cache_bytes: int = 64 << 30,
) -> Samples:
    """The samples of the finished folder ``shards`` that meet ``where``, in stored or in shuffled order.

    ``shards`` is a folder or the URL of one; ``check``, ``cache_dir`` and ``cache_bytes`` are those of `Store`.
    ``shuffle`` is ``None``, ``"full"`` (over the whole folder) or ``"window"`` (reads stay near one another; for large
    folders). ``where`` filters by the index: ``{"source": "llava", "max_frames": 8}``, see `Where`. The order depends
    on the folder, ``shuffle``, ``seed`` and ``where`` alone. ``on_error`` says what a loader does with a bad sample,
    see `Quarantine`. Raises `ShardError` and its subclasses, `UsageError` if no sample is left.
    """
    store = Store(shards, cache_dir=cache_dir, cache_bytes=cache_bytes, check=check)
    return Samples(store, shuffle=shuffle, seed=seed, where=where, on_error=on_error)


class Samples(Sequence[Sample]):
    """The samples of one folder; ``samples[position]`` for positions of the first epoch, `get` for any epoch.

    Direct access to a bad sample raises; ``on_error`` decides what a loader does with it.
    """

    def __init__(
        self,
        store: Store,
        *,
        shuffle: Shuffle = None,
        seed: int = 0,
        where: Condition | None = None,
        on_error: OnError | Quarantine = "raise",
    ) -> None:
        self.store = store
        self.quarantine = on_error if isinstance(on_error, Quarantine) else Quarantine(on_error)
        self._selected = select_rows(store, where)
        self._filter_digest = digest() if self._selected is None else digest(self._selected)
        count = len(store) if self._selected is None else len(self._selected)
        self.order = Order(length=count, shuffle=shuffle, seed=seed)

    def only(self, indices: NDArray[np.int64]) -> Samples:
        """The samples at ``indices`` (ascending) of their stored order, with the same shuffle and seed."""
        fewer = copy.copy(self)
        fewer._selected = self.rows(indices)
        fewer._filter_digest = digest(fewer._selected)
        fewer.order = replace(self.order, length=len(indices))
        return fewer

    @property
    def folder(self) -> Path:
        """Where the shards lie."""
        return self.store.folder

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the folder."""
        return self.store.manifest

    @property
    def fingerprint(self) -> str:
        """See `Store.fingerprint`: the content of the whole folder, whatever is selected."""
        return self.store.fingerprint

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """See `Ordered.fingerprints`. Two filters that leave the same samples have equal digests."""
        return {
            "content": digest(self.fingerprint),
            "order": digest(self.order),
            "filter": self._filter_digest,
            "mixture": digest(),
            "packing": digest(),
        }

    @property
    def fetch(self) -> Callable[[int], Sample | None]:
        """See `Ordered.fetch`; an address is a row of the store."""
        return _Fetch(self.store, self.quarantine, _same)

    def decoded(self, decode: Callable[[Sample], Value]) -> Decoded[Value]:
        """These samples as ``decode`` returns them, in the worker; it raises `CorruptShardError` for a bad sample."""
        return Decoded(self, decode)

    def __len__(self) -> int:
        return self.order.length

    @overload
    def __getitem__(self, position: int) -> Sample: ...
    @overload
    def __getitem__(self, position: slice) -> list[Sample]: ...
    def __getitem__(self, position: int | slice) -> Sample | list[Sample]:
        if isinstance(position, slice):
            return list(self._read(range(*position.indices(len(self)))))
        place = position + len(self) if position < 0 else position
        if not 0 <= place < len(self):
            raise IndexError(f"position {position} of {len(self)} samples")
        return self.get(place)

    def __iter__(self) -> Iterator[Sample]:
        return self._read(range(len(self)))

    def _read(self, positions: range) -> Iterator[Sample]:
        for start in range(0, len(positions), _ROWS_AT_ONCE):
            for row in self.addresses(positions[start : start + _ROWS_AT_ONCE]):
                yield self.store.read(row)

    def addresses(self, positions: Sequence[int]) -> list[int]:
        """The rows of the store at ``positions`` of an endless run."""
        found: list[int] = self.rows(self.order.at(np.asarray(positions, dtype=np.int64))).tolist()
        return found

    def rows(self, indices: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """The rows of the store that take part, ascending, or those at ``indices`` of that list."""
        if self._selected is None:
            return np.arange(len(self)) if indices is None else indices
        return self._selected if indices is None else self._selected[indices]

    def get(self, position: int) -> Sample:
        """The sample at ``position >= 0`` of an endless run: position p is place ``p % len`` of epoch ``p // len``."""
        return self.store.read(self.addresses([position])[0])

    def by_key(self, key: str) -> Sample:
        """The sample with this WebDataset key; `UsageError` if there is none, or the filter leaves it out."""
        row = self.store.row_of(key)
        if self._selected is not None and row not in self._selected:
            raise UsageError(f"{self.folder}: the filter leaves out the sample {key!r}")
        return self.store.read(row)

    def close(self) -> None:
        """Close the shard files; they are opened again when needed."""
        self.store.close()


class Decoded(Generic[Value]):
    """An `Ordered` of what ``decode`` makes of each of ``samples``; it raises `CorruptShardError` for a bad one."""

    def __init__(self, samples: Samples, decode: Callable[[Sample], Value]) -> None:
        self.samples = samples
        self.decode = decode
        self.addresses = samples.addresses

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def fetch(self) -> Callable[[int], Value | None]:
        """See `Ordered.fetch`."""
        return _Fetch(self.samples.store, self.samples.quarantine, self.decode)

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """The fingerprints of the samples."""
        return self.samples.fingerprints


@dataclass(frozen=True, slots=True)
class _Fetch(Generic[Value]):
    store: Store
    quarantine: Quarantine
    decode: Callable[[Sample], Value]

    def __call__(self, row: int) -> Value | None:
        return self.quarantine.attempt(self.store, row, self.decode)


def _same(sample: Sample) -> Sample:
    return sample
