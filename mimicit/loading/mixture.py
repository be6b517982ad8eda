"""Several folders shown together in fixed proportions, each in an order of its own.

Position p lies in window ``p // window``. The quotas of that window (see `Quotas`) say how many of its positions each
part gets, a keyed permutation says which, and the quotas of earlier windows say where each part continues. So any
position is found without those before it, and every part shows each of its samples once per epoch of its own.

How many positions each part gets is exact at the end of every window, by arithmetic alone. Weights become whole *units*
of a period of ``PERIOD`` windows. In each window a part gets its share, rounded down to whole positions; the few that
are left are distributed by the chairman assignment (Tijdeman 1980), which keeps every running count within one of its
ideal at every moment. The counts repeat after a period, so they are computed once (milliseconds) and
any window is found without those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mimicit.errors import UsageError
from mimicit.loading.order import PARTS, Address, Ordered, Shuffle, digest, grouped, permutation_key, permute
from mimicit.loading.quarantine import OnError, Quarantine
from mimicit.loading.samples import Condition, load
from mimicit.records import Sample

Value = TypeVar("Value")
Change = tuple[int, tuple[int, ...]]
"""(a window, the units from that window on); see `mimicit.loading.mixture` for units."""

PERIOD: Final = 1024
"""Windows after which the counts repeat."""


def load_mixture(
    folders: Sequence[tuple[str | Path, float]],
    *,
    shuffle: Shuffle = None,
    seed: int = 0,
    where: Condition | None = None,
    on_error: OnError | Quarantine = "raise",
    window: int = 1024,
) -> Mixture[Sample]:
    """The samples of several ``(folder, weight)``, in these proportions in every ``window`` positions.

    Weights are relative: 2 and 1 show two samples of the first folder for one of the second. ``shuffle``, ``seed``,
    ``where`` and ``on_error`` are those of `load`, for each folder; if folders differ in these, give `Mixture` what
    `load` or `pack` returns for each.
    """
    parts = [load(folder, shuffle=shuffle, seed=seed, where=where, on_error=on_error) for folder, _ in folders]
    return Mixture(parts, [weight for _, weight in folders], seed=seed, window=window)


class Mixture(Generic[Value]):
    """``parts`` mixed by ``weights``; an `Ordered` of what its parts give (samples, or packs).

    Its epoch is nominal: as many positions as the parts have together. ``changes`` are those of `reweighted`.
    """

    def __init__(
        self,
        parts: Sequence[Ordered[Value]],
        weights: Sequence[float],
        *,
        seed: int = 0,
        window: int = 1024,
        changes: Sequence[Change] = (),
    ) -> None:
        if len(parts) != len(weights) or not parts:
            raise UsageError(f"{len(parts)} parts and {len(weights)} weights; give each part a weight")
        if window < 1:
            raise UsageError(f"window={window}: give at least 1")
        self.parts = tuple(parts)
        self.weights = tuple(weights)
        self.seed = seed
        self.window = window
        self.changes = tuple(changes)
        self._segments = _segments(((0, whole_units(weights, window)), *self.changes), window)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """See `Ordered.fingerprints`. Changes of weights are not part of it: they belong to the state of a run."""
        own = (self._segments[0].units, self.window, self.seed)
        return {
            part: digest(*(each.fingerprints[part] for each in self.parts), *(own if part == "mixture" else ()))
            for part in PARTS
        }

    @property
    def fingerprint(self) -> str:
        """Changes when the content of a part does."""
        return self.fingerprints["content"]

    @property
    def fetch(self) -> Callable[[Address], Value | None]:
        """See `Ordered.fetch`; an address is the number of a part and an address of that part."""
        return _FetchPart(tuple(part.fetch for part in self.parts))

    def addresses(self, positions: Sequence[int]) -> list[tuple[int, Address]]:
        """The part and the address in it at each of ``positions``."""
        numbers, places = self.places(positions)
        result: list[tuple[int, Address]] = [(0, None)] * len(positions)
        for number, chosen in grouped(numbers):
            found = self.parts[number].addresses(places[chosen].tolist())
            for index, address in zip(chosen.tolist(), found, strict=True):
                result[index] = (number, address)
        return result

    def get(self, position: int) -> Value | None:
        """The value at ``position``; None if it is damaged and damage is masked."""
        return self.fetch(self.addresses([position])[0])

    def places(self, positions: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each of ``positions`` the number of the part, and the position in the endless order of that part."""
        wanted = np.asarray(positions, dtype=np.int64)
        if wanted.size and wanted.min() < 0:
            raise UsageError("positions start at 0")
        windows, slots = np.divmod(wanted, self.window)
        numbers, places = np.empty_like(wanted), np.empty_like(wanted)
        for window, chosen in grouped(windows):
            pattern, before = self._pattern(window)
            numbers[chosen] = pattern[slots[chosen]]
            places[chosen] = before[slots[chosen]]
        return numbers, places

    def reweighted(self, weights: Sequence[float], position: int) -> Mixture[Value]:
        """The same mixture, but with ``weights`` from the first window on that begins at or after ``position``."""
        if len(weights) != len(self.parts):
            raise UsageError(f"{len(self.parts)} parts and {len(weights)} weights; give each part a weight")
        start = -(-position // self.window)
        kept = [change for change in self.changes if change[0] < start]
        return self.with_changes([*kept, (start, whole_units(weights, self.window))])

    def with_changes(self, changes: Sequence[Change]) -> Mixture[Value]:
        """The same parts, first weights and seed with other ``changes`` (those of a state)."""
        return Mixture(self.parts, self.weights, seed=self.seed, window=self.window, changes=changes)

    def _pattern(self, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For every slot of ``window`` its part, and the position in that part."""
        segment = next(segment for segment in reversed(self._segments) if segment.start <= window)
        quota = segment.quotas.within(window - segment.start)
        key = permutation_key(self.seed, 0, "mixture", window)
        pattern = np.repeat(np.arange(len(quota)), quota)[permute(np.arange(self.window), self.window, key)]
        in_turn = np.argsort(pattern, kind="stable")
        rank = np.empty_like(pattern)
        rank[in_turn] = np.arange(self.window) - np.repeat(np.cumsum(quota) - quota, quota)
        return pattern, (segment.base + segment.quotas.before(window - segment.start))[pattern] + rank


class Quotas:
    """The counts of ``units`` (one whole number per part; they sum up to ``PERIOD * window``) in windows of positions.

    After any number of windows, the count of each part is less than one away from its exact share.
    """

    def __init__(self, units: Sequence[int], window: int) -> None:
        if sum(units) != PERIOD * window or min(units) < 1:
            raise UsageError(f"units {list(units)}: they are at least 1 and sum up to {PERIOD * window}")
        self.units = np.array(units, dtype=np.int64)
        self.window = window
        sure, rest = np.divmod(self.units, PERIOD)
        self._totals = sure * np.arange(PERIOD + 1)[:, None] + _running_counts(rest)

    def before(self, window: int) -> NDArray[np.int64]:
        """How many positions each part has got before ``window``."""
        periods, place = divmod(window, PERIOD)
        counts: NDArray[np.int64] = periods * self.units + self._totals[place]
        return counts

    def within(self, window: int) -> NDArray[np.int64]:
        """How many positions each part gets in ``window``; they sum up to the positions of a window."""
        return self.before(window + 1) - self.before(window)


def whole_units(weights: Sequence[float], window: int) -> tuple[int, ...]:
    """``weights`` as units of a period (largest remainders); `UsageError` if one is not positive or rounds to 0."""
    if not weights or not all(0 < weight < float("inf") for weight in weights):
        raise UsageError(f"weights {list(weights)}: each is a positive number")
    total = PERIOD * window
    exact = np.array(weights, dtype=np.float64) / sum(weights) * total
    units = np.floor(exact).astype(np.int64)
    units[np.argsort(units - exact, kind="stable")[: total - int(units.sum())]] += 1
    if units.min() < 1:
        part = int(units.argmin())
        raise UsageError(f"weight {weights[part]} is less than one in {total:,} positions; leave this folder out")
    return tuple(units.tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """Windows from ``start`` on under the same weights; ``base`` positions of each part lie before it."""

    start: int
    units: tuple[int, ...]
    quotas: Quotas
    base: NDArray[np.int64]


def _segments(changes: Sequence[Change], window: int) -> list[_Segment]:
    segments: list[_Segment] = []
    for start, units in changes:
        base = np.zeros(len(units), dtype=np.int64)
        if segments:
            last = segments[-1]
            if start < last.start or len(units) != len(last.units):
                raise UsageError(f"weights from window {start} on: they do not fit those before")
            base = last.base + last.quotas.before(start - last.start)
        segments.append(_Segment(start=start, units=tuple(units), quotas=Quotas(units, window), base=base))
    return segments


@dataclass(frozen=True, slots=True)
class _FetchPart(Generic[Value]):
    fetches: tuple[Callable[[Address], Value | None], ...]

    def __call__(self, address: tuple[int, Address]) -> Value | None:
        number, inner = address
        return self.fetches[number](inner)


def _running_counts(rest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts int64[PERIOD + 1, parts] of left-over positions, before each window of a period and after the last.

    Each of them goes to the part, among those that may have it, that needs it soonest to keep up. All numbers stay
    below 2**53, so the comparison of quotients is the same on every machine.
    """
    parts, per_window = len(rest), int(rest.sum()) // PERIOD
    running = np.zeros((PERIOD + 1, parts), dtype=np.int64)
    total, counts, scale = int(rest.sum()), np.zeros(parts, dtype=np.int64), 2 * parts - 2
    for number in range(1, PERIOD * per_window + 1):
        owed = number * rest - counts * total  # in units of 1 / total positions
        urgency = np.where(owed * scale >= total, (total * (scale - 1) - owed * scale) / np.maximum(rest, 1), np.inf)
        urgency[rest == 0] = np.inf
        counts[np.argmin(urgency)] += 1
        if number % per_window == 0:
            running[number // per_window] = counts
    return running
