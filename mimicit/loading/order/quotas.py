"""How many positions each part of a mixture gets: exact at the end of every window, by arithmetic alone.

Weights become whole *units* of a period of ``PERIOD`` windows. In each window a part gets the whole number of positions
that its share surely contains; the few that are left go round by the chairman assignment (Tijdeman 1980), which keeps
every running count within one of its ideal at every moment. The counts repeat after a period, so they are computed once
(milliseconds) and any window is found without those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mimicit.errors import UsageError

__all__ = ["PERIOD", "Quotas", "whole_units"]

PERIOD: Final = 1024
"""Windows after which the counts repeat."""


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
    """``weights`` as units of a period (largest remainders); `UsageError` where one is not positive or vanishes."""
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


def _running_counts(rest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts (windows, parts) of the positions that are left over, before each window of a period and after the last.

    Position n of them goes to the part, among those that may have it, that must have it soonest to keep up. All numbers
    stay below 2**53, so the comparison of quotients is the same on every machine.
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
