"""The order of an epoch as a function of position: a keyed permutation that is never materialised.

``full`` is a Feistel network over the next power of two, with cycle walking: one index costs O(1), and a whole array
is handled in one go (30 to 60 ns an index). ``window`` permutes blocks of neighbouring samples over the whole folder,
and then the samples within a window of such blocks: reads stay near one another, batches stay mixed. Both are
bijections of ``range(length)`` for every key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from mimicit.errors import UsageError

Shuffle = Literal["full", "window"] | None

_U64 = np.uint64
_MULTIPLIER_1: Final = _U64(0xBF58476D1CE4E5B9)  # the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
_MULTIPLIER_2: Final = _U64(0x94D049BB133111EB)
_ROUNDS: Final = 4
_SMALL_BITS: Final = 8  # up to this size, halves mix too little in four rounds: the images of 5 values are biased
_SMALL_ROUNDS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The order in which ``length`` samples are shown, epoch after epoch.

    ``shuffle`` is ``"full"``, ``"window"`` or ``None`` (stored order). In the window order, ``block`` neighbouring
    samples travel together, and about ``window`` blocks are mixed with one another.
    """

    length: int
    shuffle: Shuffle = "full"
    seed: int = 0
    block: int = 32
    window: int = 512

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UsageError("there is no sample to order; build shards that hold at least one")
        if self.shuffle not in ("full", "window", None):
            raise UsageError(f"shuffle={self.shuffle!r}: choose 'full', 'window' or None")
        if self.block < 1 or self.window < 1:
            raise UsageError(f"block={self.block}, window={self.window}: both are at least 1")

    def at(self, positions: NDArray[np.int64] | list[int]) -> NDArray[np.int64]:
        """The stored indices (int64) of ``positions``; position p lies in epoch ``p // length``."""
        wanted = np.asarray(positions, dtype=np.int64)
        if wanted.size and wanted.min() < 0:
            raise UsageError("positions start at 0")
        epochs, places = np.divmod(wanted, self.length)
        if self.shuffle is None:
            return places
        result = np.empty_like(places)
        for epoch, chosen in grouped(epochs):
            result[chosen] = self._in_epoch(places[chosen], epoch)
        return result

    def _in_epoch(self, places: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        if self.shuffle == "full":
            return permute(places, self.length, permutation_key(self.seed, epoch, "full", 0))
        # Blocks begin elsewhere in each epoch, so other neighbours travel together.
        shift = permutation_key(self.seed, epoch, "shift", 0) % self.length
        return (self._window_order(places, epoch) + shift) % self.length

    def _window_order(self, places: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        whole = self.length // self.block  # whole blocks; the few samples after them belong to the last window
        windows = max(1, -(-whole // self.window))
        fewer, longer = divmod(whole, windows)  # the first ``longer`` windows have one block more than ``fewer``
        blocks = np.minimum(places // self.block, max(whole - 1, 0))
        split = longer * (fewer + 1)
        numbers = np.where(blocks < split, blocks // (fewer + 1), longer + (blocks - split) // max(fewer, 1))
        result = np.empty_like(places)
        for number, chosen in grouped(numbers):
            start = (number * fewer + min(number, longer)) * self.block
            stop = self.length if number == windows - 1 else start + (fewer + (number < longer)) * self.block
            key = permutation_key(self.seed, epoch, "mix", number)
            result[chosen] = start + permute(places[chosen] - start, stop - start, key)
        in_blocks = result < whole * self.block
        block, inside = np.divmod(result[in_blocks], self.block)
        result[in_blocks] = permute(block, whole, permutation_key(self.seed, epoch, "blocks", 0)) * self.block + inside
        return result


def permute(values: NDArray[np.int64], length: int, key: int) -> NDArray[np.int64]:
    """The images of ``values``, each in ``range(length)``, under the permutation of that range keyed by ``key``."""
    if length <= 1:
        return values.copy()
    bits = max(2, (length - 1).bit_length())
    subkeys = _subkeys(key, _SMALL_ROUNDS if bits <= _SMALL_BITS else _ROUNDS)
    limit = _U64(length)
    state = _feistel(values.astype(np.uint64), bits, subkeys)
    outside = np.flatnonzero(state >= limit)
    while outside.size:  # cycle walking: apply again until the value falls inside; less than twice on average
        state[outside] = _feistel(state[outside], bits, subkeys)
        outside = outside[state[outside] >= limit]
    return state.astype(np.int64)


def permutation_key(seed: int, epoch: int, purpose: str, part: int) -> int:
    """64 bits that differ for every seed, epoch, purpose and part (a window, say)."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{purpose}\0{part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def grouped(numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each distinct number with the indices where it stands, by one sort instead of a scan for each number."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=False):  # an empty array has no start
        yield int(numbers[order[start]]), order[start:stop]


def _feistel(state: NDArray[np.uint64], bits: int, subkeys: list[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of ``range(2**bits)``; for odd ``bits`` the halves differ by one bit and swap their widths."""
    width = bits // 2
    other = bits - width
    left, right = state >> _U64(width), state & _U64((1 << width) - 1)
    for subkey in subkeys:
        left, right = right, left ^ _mixed(right + subkey, other)
        width, other = other, width
    return (left << _U64(width)) | right


def _mixed(values: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """``bits`` bits that depend on all of ``values``, which are overwritten; arithmetic modulo 2**64."""
    values *= _MULTIPLIER_1
    values ^= values >> _U64(32)
    values *= _MULTIPLIER_2
    values >>= _U64(64 - bits)
    return values


def _subkeys(key: int, rounds: int) -> list[np.uint64]:
    digest = hashlib.blake2b(key.to_bytes(8, "little"), digest_size=8 * rounds).digest()
    return [_U64(int.from_bytes(digest[8 * n : 8 * n + 8], "little")) for n in range(rounds)]
