"""The order of an epoch as a function of position: a keyed permutation that is never materialised.

``full`` is a four-round Feistel network over the next power of four, with cycle walking; one index costs O(1) and an
array is handled at once. ``window`` permutes blocks of consecutive samples (so reads stay sequential) and then the
samples within a window of blocks. Both are bijections of ``range(length)`` for every key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from mimicit.errors import UsageError

__all__ = ["Order", "Shuffle", "permute"]

Shuffle = Literal["full", "window"] | None

_ROUNDS: Final = 4
_U64 = np.uint64
_MULTIPLIER_1: Final = _U64(0xBF58476D1CE4E5B9)  # the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
_MULTIPLIER_2: Final = _U64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The order in which ``length`` samples are shown, epoch after epoch.

    ``shuffle`` is ``"full"``, ``"window"`` or ``None`` (stored order). ``block`` samples stay together in the window
    order, and ``window`` blocks are mixed with one another.
    """

    length: int
    shuffle: Shuffle = "full"
    seed: int = 0
    block: int = 64
    window: int = 256

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UsageError("there is no sample to order; build shards that hold at least one")
        if self.shuffle not in ("full", "window", None):
            raise UsageError(f"shuffle={self.shuffle!r}: choose 'full', 'window' or None")

    def at(self, positions: NDArray[np.int64] | list[int]) -> NDArray[np.int64]:
        """The stored indices (int64) of ``positions``; position p lies in epoch ``p // length``."""
        wanted = np.asarray(positions, dtype=np.int64)
        if wanted.size and wanted.min() < 0:
            raise UsageError("positions start at 0")
        epochs, places = np.divmod(wanted, self.length)
        if self.shuffle is None:
            return places
        result = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            result[chosen] = self._in_epoch(places[chosen], int(epoch))
        return result

    def _in_epoch(self, places: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        if self.shuffle == "full":
            return permute(places, self.length, _key(self.seed, epoch, "full", 0))
        return self._window_order(places, epoch)

    def _window_order(self, places: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        whole = self.length // self.block  # whole blocks; the rest of the samples forms the last, short window
        span = self.block * self.window
        windows = np.minimum(places, max(whole * self.block - 1, 0)) // span if whole else np.zeros_like(places)
        windows[places >= whole * self.block] = -1
        result = np.empty_like(places)
        for window in np.unique(windows):
            chosen = windows == window
            start = whole * self.block if window < 0 else int(window) * span
            stop = self.length if window < 0 else min(start + span, whole * self.block)
            mixed = start + permute(places[chosen] - start, stop - start, _key(self.seed, epoch, "mix", int(window)))
            if window >= 0:
                blocks, inside = np.divmod(mixed, self.block)
                mixed = permute(blocks, whole, _key(self.seed, epoch, "blocks", 0)) * self.block + inside
            result[chosen] = mixed
        return result


def permute(values: NDArray[np.int64], length: int, key: int) -> NDArray[np.int64]:
    """The images of ``values``, each in ``range(length)``, under the permutation of that range keyed by ``key``."""
    if length <= 1:
        return values.copy()
    half = max(1, -(-(length - 1).bit_length() // 2))
    subkeys = _subkeys(key)
    state = values.astype(np.uint64)
    limit = _U64(length)
    state = _feistel(state, half, subkeys)
    outside = np.flatnonzero(state >= limit)
    while outside.size:  # cycle walking: apply again until the value falls inside; fewer than four times on average
        state[outside] = _feistel(state[outside], half, subkeys)
        outside = outside[state[outside] >= limit]
    return state.astype(np.int64)


def _feistel(state: NDArray[np.uint64], half: int, subkeys: list[np.uint64]) -> NDArray[np.uint64]:
    shift, mask = _U64(half), _U64((1 << half) - 1)
    left, right = state >> shift, state & mask
    with np.errstate(over="ignore"):
        for subkey in subkeys:
            left, right = right, left ^ (_mix(right ^ subkey) & mask)
    return (left << shift) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> _U64(30))) * _MULTIPLIER_1
    values = (values ^ (values >> _U64(27))) * _MULTIPLIER_2
    return values ^ (values >> _U64(31))


def _subkeys(key: int) -> list[np.uint64]:
    digest = hashlib.blake2b(key.to_bytes(8, "little"), digest_size=8 * _ROUNDS).digest()
    return [_U64(int.from_bytes(digest[8 * n : 8 * n + 8], "little")) for n in range(_ROUNDS)]


def _key(seed: int, epoch: int, purpose: str, part: int) -> int:
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{purpose}\0{part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
