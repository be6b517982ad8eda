"""Samples put together into packs of a bounded cost, so that batches hold little padding; no sample is ever split.

A window of neighbouring samples is packed best-fit-decreasing; its emptiest pack is dissolved into the next window, so
the fill does not depend on how many packs a window holds. The packs of a window are then mixed, for the algorithm gives
the longest samples first. All this is done once per folder (2 µs a sample); what is shuffled afterwards, epoch by
epoch, are whole packs, so the place of every pack is as much a function of position as that of a sample.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from mimicit.errors import CorruptShardError, UsageError
from mimicit.loading.costs import Cost, costs_of, kept_array
from mimicit.loading.order import Order, permutation_key, permute
from mimicit.loading.ordered import digest
from mimicit.loading.samples import Samples
from mimicit.records import Sample

__all__ = ["Oversized", "Pack", "PackedSamples", "best_fit", "pack"]

Oversized = Literal["raise", "alone"]
_WINDOW: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Whole samples that share one sequence; each is a document of its own, which others must not attend to.

    ``missing`` counts those left out because they are damaged and damage is masked.
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
    for each sample in stored order; with ``cache_dir`` measured costs and packs are computed once. A sample above the
    budget raises `UsageError`, or with ``"alone"`` gets a pack of its own (`PackedSamples.oversized` counts them).
    Packs are shuffled as ``samples`` are.
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
    name = f"packs-{digest(costs, budget)}"
    layout = kept_array(cache, name, lambda: _layout(costs, budget))
    return PackedSamples(samples, layout, costs=costs, budget=budget)


class PackedSamples:
    """Made by `pack`: ``packed[position]`` for positions of the first epoch, `get` for any epoch.

    ``fill`` is the share of the budget that is used, over all packs that are not ``oversized``.
    """

    def __init__(self, samples: Samples, layout: NDArray[np.int64], *, costs: NDArray[np.int64], budget: int) -> None:
        self.samples = samples
        count = int(layout[0]) if len(layout) else -1
        self._starts, self._members = layout[1 : count + 2], layout[count + 2 :]
        if count < 1 or len(self._members) != len(costs) or self._starts[-1] != len(costs):
            raise CorruptShardError("the kept packs are not those of these samples; delete packs-*.npy")
        order = samples.order
        self.order = Order(length=count, shuffle=order.shuffle, seed=order.seed, block=order.block, window=order.window)
        self.budget = budget
        self.oversized = int((costs > budget).sum())
        fitting = count - self.oversized
        self.fill = float(costs[costs <= budget].sum() / (fitting * budget)) if fitting else 1.0
        self._digest = digest(budget, layout)

    def __len__(self) -> int:
        return self.order.length

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
        return {**self.samples.fingerprints, "order": digest(self.order), "packing": self._digest}

    @property
    def fetch(self) -> Callable[[tuple[int, ...]], Pack | None]:
        """See `Ordered.fetch`; an address is the rows of a pack. None where no sample of the pack is left."""
        return _FetchPack(self.samples.fetch)

    def addresses(self, positions: Sequence[int]) -> list[tuple[int, ...]]:
        """The rows of the store in the pack at each of ``positions``, ascending."""
        numbers = self.order.at(np.asarray(positions, dtype=np.int64))
        return [
            tuple(self.samples.rows(self._members[start:stop]).tolist())
            for start, stop in zip(self._starts[numbers], self._starts[numbers + 1], strict=True)
        ]

    def get(self, position: int) -> Pack:
        """The pack at ``position >= 0`` of an endless run; a damaged sample raises."""
        rows = self.addresses([position])[0]
        return Pack(samples=tuple(self.samples.store.read(row) for row in rows))


def best_fit(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of ``costs`` in packs of at most ``budget``: the largest first, each where the least room remains.

    A cost above the budget gets a pack of its own.
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, pack), ascending
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
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


def _layout(costs: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """One array: the number of packs, where each begins and the last ends, and the samples of all packs."""
    packs = [np.array(pack, dtype=np.int64) for pack in _packs(costs, budget)]
    starts = np.cumsum([0, *map(len, packs)])
    return np.concatenate([[len(packs)], starts, *packs]).astype(np.int64)


def _packs(costs: NDArray[np.int64], budget: int) -> Iterator[list[int]]:
    carried: list[int] = []
    for number, start in enumerate(range(0, len(costs), _WINDOW)):
        stop = min(start + _WINDOW, len(costs))
        window = [*carried, *range(start, stop)]
        sizes = costs[window].tolist()
        packs = best_fit(sizes, budget)
        carried = []
        if stop < len(costs):
            emptiest = min(range(len(packs)), key=lambda index: sum(sizes[member] for member in packs[index]))
            carried = [window[member] for member in packs.pop(emptiest)]
        for index in permute(np.arange(len(packs)), len(packs), permutation_key(0, 0, "packs", number)).tolist():
            yield sorted(window[member] for member in packs[index])


@dataclass(frozen=True, slots=True)
class _FetchPack:
    fetch: Callable[[int], Sample | None]

    def __call__(self, rows: tuple[int, ...]) -> Pack | None:
        found = [sample for sample in map(self.fetch, rows) if sample is not None]
        return Pack(samples=tuple(found), missing=len(rows) - len(found)) if found else None
