"""Samples put together into packs of a bounded cost, so that batches hold little padding; no sample is ever split.

The cost of a sample is a whole number: a column of the index, or measured once and kept in a file.

Every epoch has packs of its own. A window of samples that follow one another in the order of the epoch is packed by
best fit: in a random order that favours larger samples, each goes where it leaves the least room. (With strictly the
largest first, samples would meet the same others in every epoch, and samples of equal length each other.) The emptiest
pack of a window is dissolved into the next, so the fill does not depend on how many packs a window holds. The packs of
a window are shuffled, because the longest samples are packed first.

All epochs have as many packs as the first, and a thousandth more (rounded down): if an epoch needs fewer, some are
halved; if it needs more, it is packed again, with less left to chance. So the place of every pack is as much a function
of position as that of a sample. Cost: 2 µs a sample at the start of each epoch, from numbers alone.
"""

from __future__ import annotations

import os
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mimicit.errors import CorruptShardError, UsageError
from mimicit.loading.order import Order, digest, grouped, permutation_key, permute
from mimicit.loading.samples import Samples
from mimicit.prompt import render
from mimicit.records import Sample
from mimicit.shards.files import publish

Oversized = Literal["raise", "alone"]
_WINDOW: Final = 4096
_SPARE: Final = 1000  # one more pack for each this many
_ATTEMPTS: Final = 16
_ALIKE: Final = 4  # attempts that leave equally much to chance


@dataclass(frozen=True, slots=True)
class Cost:
    """A measure of samples; ``fingerprint`` differs if ``measure`` may give another number."""

    measure: Callable[[Sample], int]
    fingerprint: str


class _Tokenizer(Protocol):
    def __call__(self, text: str) -> Mapping[str, Any]: ...
    def get_vocab(self) -> Mapping[str, int]: ...


def token_cost(tokenizer: _Tokenizer, template: str = "otter") -> Cost:
    """Tokens of the whole prompt (see `mimicit.prompt.render`) under a tokenizer like those of `transformers`."""

    def measure(sample: Sample) -> int:
        return len(tokenizer(render(sample, template))["input_ids"])

    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else ""
    return Cost(measure, digest("tokens", template, rules, sorted(tokenizer.get_vocab().items())))


def costs_of(
    samples: Samples, cost: str | Cost | NDArray[np.int64], cache_dir: Path | None = None
) -> NDArray[np.int64]:
    """The cost of each sample that takes part, in stored order: int64[number of samples].

    ``cost`` names an integer column of the index (``frames``, ``media``, ``triplets``, ``characters``, ``size``), is
    such an array itself, or a measure: every sample is read once, and the result kept in ``cache_dir`` for all later
    runs with the same folder, filter and measure. `UsageError` if there is no such column, the array has another
    length, or a cost is negative.
    """
    if isinstance(cost, str):
        costs = _column(samples, cost)
    elif isinstance(cost, np.ndarray):
        costs = cost
        if costs.shape != (len(samples),):
            raise UsageError(f"{costs.size} costs of {len(samples)} samples; give one for each")
    else:
        prints = samples.fingerprints
        name = f"costs-{digest(prints['content'], prints['filter'], cost.fingerprint)}"
        costs = kept_array(cache_dir, name, lambda: _measured(samples, cost.measure))
        if len(costs) != len(samples):
            raise CorruptShardError(f"{cache_dir}/{name}.npy: {len(costs)} costs of {len(samples)} samples; delete it")
    if costs.min() < 0:
        row = int(samples.rows(np.array([costs.argmin()]))[0])
        raise UsageError(f"sample {samples.store.key(row)}: the cost {costs.min()} is negative")
    return costs


def kept_array(folder: Path | None, name: str, make: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """The array that ``make`` returns, kept in ``folder`` and memory-mapped from there; without a folder, only made.

    The file appears whole or not at all, so processes may race for it; ``name`` must identify its content.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.npy"
    if not path.is_file():
        array = make()
        folder.mkdir(parents=True, exist_ok=True)
        with publish(path, folder / f".{name}.{os.getpid()}.tmp") as file:
            np.save(file, array)
    try:
        kept: NDArray[np.int64] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptShardError(f"{path}: {error}; delete it") from None
    if kept.ndim != 1 or kept.dtype != np.int64:
        raise CorruptShardError(f"{path}: not what was written there; delete it")
    return kept


def _column(samples: Samples, name: str) -> NDArray[np.int64]:
    column = samples.store.columns([name])[name].to_numpy()
    if column.dtype.kind not in "iu":
        raise UsageError(f"cost={name!r}: this column holds no whole numbers; choose frames, media or characters")
    costs: NDArray[np.int64] = column[samples.rows()].astype(np.int64)
    return costs


def _measured(samples: Samples, measure: Callable[[Sample], int]) -> NDArray[np.int64]:
    rows = samples.rows()
    return np.fromiter((measure(samples.store.read(row)) for row in rows.tolist()), dtype=np.int64, count=len(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Whole samples that share one sequence; each is a document of its own, which others must not attend to.

    ``missing`` counts samples left out because they are damaged and damage is masked.
    """

    samples: tuple[Sample, ...]
    missing: int = 0


def pack(
    samples: Samples,
    *,
    budget: int,
    cost: str | Cost | NDArray[np.int64],
    oversized: Oversized = "raise",
    cache_dir: str | Path | None = None,
) -> PackedSamples:
    """The samples in packs whose costs sum up to at most ``budget``; every sample is in one pack.

    ``cost`` is a column of the index (``frames``, ``characters``, ...), a `Cost`, such as `token_cost`, or one number
    for each sample in stored order; with ``cache_dir`` measured costs and the packs of the first epoch are
    computed once. A sample above the budget raises `UsageError`, or with ``"alone"`` gets a pack of its own
    (`PackedSamples.oversized` counts them). Each epoch has packs of its own, of samples that lie near one another in
    its order; without a shuffle all epochs are the same.
    """
    if budget < 1:
        raise UsageError(f"budget={budget}: give at least 1")
    if oversized not in ("raise", "alone"):
        raise UsageError(f"oversized={oversized!r}: choose 'raise' or 'alone'")
    cache = Path(cache_dir) if cache_dir is not None else None
    costs = costs_of(samples, cost, cache)
    too_large = np.flatnonzero(costs > budget)
    if too_large.size and oversized == "raise":
        key = samples.store.key(int(samples.rows(too_large[:1])[0]))
        raise UsageError(
            f"{too_large.size} samples cost more than budget={budget}, the first is {key} with "
            f"{costs[too_large[0]]}; raise the budget, filter with where=, or give oversized='alone'"
        )
    name = f"packs-{digest(samples.order, costs, budget)}"
    first = kept_array(cache, name, lambda: _pack_epoch(samples.order, costs, budget, epoch=0).in_one())
    return PackedSamples(samples, first, costs=costs, budget=budget)


class PackedSamples:
    """Made by `pack`: ``packed[position]`` for positions of the first epoch, `get` for any epoch.

    ``fill`` is the share of the budget that is used, over all packs that are not ``oversized``.
    """

    def __init__(self, samples: Samples, first: NDArray[np.int64], *, costs: NDArray[np.int64], budget: int) -> None:
        self.samples = samples
        self.costs = costs
        self.budget = budget
        packs = _Packs.of(first)
        if packs is None or len(packs.members) != len(samples):
            raise CorruptShardError("the kept packs are not those of these samples; delete packs-*.npy")
        self._first = packs
        needed = len(packs)
        self._count = min(needed + needed // _SPARE, len(samples))
        self.oversized = int((costs > budget).sum())
        fitting = self._count - self.oversized
        self.fill = float(costs[costs <= budget].sum() / (fitting * budget)) if fitting else 1.0
        self._digest = digest("each epoch", budget, costs)
        self._epochs: dict[int, _Packs] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> Pack:
        place = position + len(self) if position < 0 else position
        if not 0 <= place < len(self):
            raise IndexError(f"position {position} of {len(self)} packs")
        return self.get(place)

    def __iter__(self) -> Iterator[Pack]:
        return map(self.get, range(len(self)))

    @property
    def fingerprint(self) -> str:
        """See `Samples.fingerprint`."""
        return self.samples.fingerprint

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """See `Ordered.fingerprints`."""
        return {**self.samples.fingerprints, "packing": self._digest}

    @property
    def fetch(self) -> Callable[[tuple[int, ...]], Pack | None]:
        """See `Ordered.fetch`; an address is the rows of a pack. None if no sample of the pack is left."""
        return _FetchPack(self.samples.fetch)

    def addresses(self, positions: Sequence[int]) -> list[tuple[int, ...]]:
        """The rows of the store in the pack at each of ``positions``, ascending."""
        wanted = np.asarray(positions, dtype=np.int64)
        if wanted.size and wanted.min() < 0:
            raise UsageError("positions start at 0")
        epochs, places = np.divmod(wanted, self._count)
        result: list[tuple[int, ...]] = [()] * len(wanted)
        for epoch, chosen in grouped(epochs):
            packs = self._packs_of(epoch)
            for index, place in zip(chosen.tolist(), places[chosen].tolist(), strict=True):
                result[index] = tuple(self.samples.rows(packs[place]).tolist())
        return result

    def get(self, position: int) -> Pack:
        """The pack at ``position >= 0`` of an endless run; a damaged sample raises."""
        rows = self.addresses([position])[0]
        return Pack(samples=tuple(self.samples.store.read(row) for row in rows))

    def _packs_of(self, epoch: int) -> _Packs:
        """The packs of ``epoch``; those of two epochs are kept, because a batch may lie in both."""
        order = self.samples.order
        epoch = epoch if order.shuffle is not None else 0
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = self._packed(order, epoch).halved(self._count)
        return self._epochs[epoch]

    def _packed(self, order: Order, epoch: int) -> _Packs:
        for attempt in range(_ATTEMPTS if epoch else 0):
            packs = _pack_epoch(order, self.costs, self.budget, epoch, attempt)
            if len(packs) <= self._count:
                return packs
        return self._first


def best_fit(costs: Sequence[int], budget: int, ranks: NDArray[np.float64] | None = None) -> list[list[int]]:
    """Indices of ``costs`` in packs of at most ``budget``: each goes where the least room remains.

    They are placed by ``ranks``, the highest first (None: by costs). A cost above the budget gets a pack of its own.
    """
    order = np.argsort(-(np.asarray(costs, dtype=np.float64) if ranks is None else ranks), kind="stable")
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, pack), ascending
    for index in order.tolist():
        place = bisect_left(rooms, (costs[index], 0))
        if place < len(rooms):
            room, chosen = rooms.pop(place)
            packs[chosen].append(index)
        else:
            room, chosen = budget, len(packs)
            packs.append([index])
        if room > costs[index]:
            insort(rooms, (room - costs[index], chosen))
    return packs


@dataclass(frozen=True, slots=True)
class _Packs:
    """The packs of one epoch: pack *i* holds the samples ``members[starts[i] : starts[i + 1]]``, as stored indices."""

    starts: NDArray[np.int64]
    members: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, place: int) -> NDArray[np.int64]:
        return self.members[self.starts[place] : self.starts[place + 1]]

    def in_one(self) -> NDArray[np.int64]:
        """As one array: the number of packs, ``starts`` and ``members``."""
        return np.concatenate([[len(self)], self.starts, self.members])

    @classmethod
    def of(cls, array: NDArray[np.int64]) -> _Packs | None:
        """Inverse of `in_one`; None if ``array`` does not hold packs."""
        count = int(array[0]) if len(array) else 0
        packs = cls(array[1 : count + 2], array[count + 2 :])
        return packs if count > 0 and len(packs) == count and packs.starts[-1] == len(packs.members) else None

    def halved(self, count: int) -> _Packs:
        """The same samples, at least ``count``, in ``count`` packs: the packs with the most samples are cut in two."""
        starts = self.starts
        while (missing := count + 1 - len(starts)) > 0:
            sizes = np.diff(starts)
            longest = np.argsort(-sizes, kind="stable")[:missing]
            longest = longest[sizes[longest] > 1]
            starts = np.sort(np.concatenate([starts, starts[longest] + sizes[longest] // 2]))
        return _Packs(starts, self.members)


def _pack_epoch(order: Order, costs: NDArray[np.int64], budget: int, epoch: int, attempt: int = 0) -> _Packs:
    """The packs of the samples in the order of ``epoch``; the higher the ``attempt``, the less is left to chance."""
    packs: list[NDArray[np.int64]] = []
    carried = np.zeros(0, dtype=np.int64)
    for number, start in enumerate(range(0, order.length, _WINDOW)):
        stop = min(start + _WINDOW, order.length)
        positions = np.arange(start, stop) + epoch * order.length
        window = np.concatenate([carried, order.at(positions)])
        sizes = costs[window]
        shares = permute(
            np.arange(len(window)), len(window), permutation_key(order.seed, epoch, f"weigh {attempt}", number)
        )
        by_chance = (shares + 1) / len(window) + 4.0 ** (attempt // _ALIKE) - 1
        squared = by_chance * by_chance  # products, unlike powers, are the same on every machine
        ranks = sizes * squared * squared
        found = best_fit(sizes.tolist(), budget, ranks)
        carried = np.zeros(0, dtype=np.int64)
        if stop < order.length:
            fills = [int(sizes[pack].sum()) for pack in found]
            carried = window[found.pop(fills.index(min(fills)))]
        key = permutation_key(order.seed, epoch, "packs", number)
        mixed = permute(np.arange(len(found)), len(found), key).tolist()
        packs += [np.sort(window[found[index]]) for index in mixed]
    starts = np.cumsum([0, *map(len, packs)])
    return _Packs(starts.astype(np.int64), np.concatenate(packs))


@dataclass(frozen=True, slots=True)
class _FetchPack:
    fetch: Callable[[int], Sample | None]

    def __call__(self, rows: tuple[int, ...]) -> Pack | None:
        found = [sample for sample in map(self.fetch, rows) if sample is not None]
        return Pack(samples=tuple(found), missing=len(rows) - len(found)) if found else None
