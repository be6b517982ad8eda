"""Which sample stands at a position, and which positions a step takes on which rank.

The order of an epoch is a function of position: a keyed permutation that is never materialised.

``full`` is a Feistel network over the next power of two, with cycle walking: one index costs O(1), and a whole array
is handled in one go (30 to 60 ns an index). ``window`` permutes blocks of neighbouring samples over the whole folder,
and then the samples within a window of such blocks: reads stay near one another, batches stay mixed. Both are
bijections of ``range(length)`` for every key.

Every loader reads values in an endless order (`Ordered`), in two steps. The first is arithmetic: positions to
*addresses* (a row, the rows of a pack, a part and its address). It runs in the training process. The second, `fetch`,
reads the value at an address; it holds no position, no order and no filter, so it is all that worker processes get.

`LoaderState` says where a run stands, as a few hundred bytes of JSON that are the same on every rank. It counts global
batches that were delivered, and holds a fingerprint of everything else that decides what the next one is; so a run can
resume from it with any number of processes and workers, but not with other samples or another order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

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

PADDING: Final = -1
"""The position of a slot that only fills the last step of an evaluation."""

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)

Address = Any
"""Where one value lies, as its own `Ordered.fetch` knows it: small, hashable, picklable."""

PARTS = ("content", "order", "filter", "mixture", "packing")
"""What fixes the value at a position; each has a fingerprint of its own, so that a mismatch can be named."""

MAX_STATE_BYTES: Final = 512
_VERSION: Final = 1
_MOST_BATCHES: Final = 10**15
_MOST: Final = 2**53  # the largest whole number that every reader of JSON holds exactly
_MENDS: Final = {
    "content": "give the same shards",
    "order": "give the same shuffle and seed",
    "filter": "give the same where=",
    "mixture": "give the same folders, weights and window",
    "packing": "give the same budget and cost",
}


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


@dataclass(frozen=True, slots=True)
class Slots(Generic[Value]):
    """What one rank sees in global step ``step``: for each slot its position (or `PADDING`) and its value.

    A value is None if the slot is padding, or holds a damaged sample and damage is masked.
    """

    step: int
    positions: tuple[int, ...]
    values: tuple[Value | None, ...]

    @property
    def valid(self) -> tuple[bool, ...]:
        """False for slots without a value; they must not count in any loss or metric."""
        return tuple(value is not None for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Step s takes positions [s·G, (s+1)·G), G being ``batch_size``; rank r of W the r-th of W equal slices.

    With an ``end``, positions at or after it are `PADDING`.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    end: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.world_size < 1 or self.batch_size % self.world_size:
            raise UsageError(
                f"the global batch of {self.batch_size} cannot be split evenly over {self.world_size} processes; "
                f"give a multiple of {self.world_size}"
            )
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank {self.rank} of {self.world_size} processes")

    def positions(self, step: int) -> list[int]:
        """The positions of this rank in ``step``; equally many on every rank and in every step."""
        share = self.batch_size // self.world_size
        first = step * self.batch_size + self.rank * share
        end = first + share if self.end is None else self.end
        return [position if position < end else PADDING for position in range(first, first + share)]

    def steps_before_end(self) -> int:
        """Steps that it takes to see every position before ``end``; the same on every rank."""
        if self.end is None:
            raise UsageError("an endless order has no last step; give steps=")
        return -(-self.end // self.batch_size)


class Ordered(Protocol[Value_co]):
    """Values in an endless order: position p lies in epoch ``p // len``, and is a pure function of p."""

    def __len__(self) -> int:
        """Positions of one epoch."""

    def addresses(self, positions: Sequence[int]) -> list[Address]:
        """Where the values of ``positions`` (at least 0, in any order) lie."""

    @property
    def fetch(self) -> Callable[[Address], Value_co | None]:
        """Reads the value at an address; None if it is damaged and damage is masked. Can be pickled."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """A digest for each of `PARTS`; equal digests mean the same values at all positions."""


def digest(*values: object) -> str:
    """64 bits of a hash of ``values`` in hexadecimal: of the bytes of an array, of the text of anything else."""
    result = hashlib.blake2b(digest_size=8)
    for value in values:
        data: memoryview = memoryview(str(value).encode())
        if isinstance(value, np.ndarray):
            data = np.ascontiguousarray(value).data
        result.update(data.nbytes.to_bytes(8, "little"))
        result.update(data)
    return result.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderState:
    """``batches`` global batches of ``batch_size`` positions were delivered.

    ``fingerprints`` are those of `Ordered`. ``changes`` are the weights of a mixture that were set during the run.
    """

    batches: int
    batch_size: int
    fingerprints: Mapping[str, str]
    changes: Sequence[tuple[int, Sequence[int]]] = ()

    def to_json(self) -> dict[str, Any]:
        """At most `MAX_STATE_BYTES` of JSON; `UsageError` if there are too many changes of weights to fit."""
        value: dict[str, Any] = {
            "version": _VERSION,
            "batches": self.batches,
            "batch_size": self.batch_size,
            **{part: self.fingerprints[part] for part in PARTS},
        }
        if self.changes:
            value["weights"] = [[window, list(units)] for window, units in self.changes]
        size = len(json.dumps({**value, "batches": _MOST_BATCHES}))  # what fits once fits until the end of the run
        if size > MAX_STATE_BYTES:
            raise UsageError(
                f"{len(self.changes)} changes of weights make a state of {size} bytes, more than {MAX_STATE_BYTES}; "
                "begin a new run with the weights of now"
            )
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LoaderState:
        """The state that `to_json` gave; `UsageError` if ``value`` is not a state."""
        try:
            if value["version"] != _VERSION:
                raise UsageError(f"loader state of version {value['version']}; this is version {_VERSION}")
            state = cls(
                batches=_whole(value["batches"]),
                batch_size=_whole(value["batch_size"]),
                fingerprints={part: str(value[part]) for part in PARTS},
                changes=[
                    (_whole(window), [_whole(unit) for unit in units]) for window, units in value.get("weights", ())
                ],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a loader state ({type(error).__name__}: {error})") from None
        return state

    def check(self, fingerprints: Mapping[str, str], batch_size: int) -> None:
        """`UsageError` names every part in which a loader differs from the loader that gave this state."""
        wrong = [
            f"another {part} ({self.fingerprints[part]}, here {fingerprints[part]}): {_MENDS[part]}"
            for part in PARTS
            if self.fingerprints[part] != fingerprints[part]
        ]
        if self.batch_size != batch_size:
            wrong.append(f"another batch_size ({self.batch_size}, here {batch_size})")
        if wrong:
            raise UsageError(f"the loader state is of {'; of '.join(wrong)}")


def _whole(value: object) -> int:
    """``value``, if it is a whole number from 0 to 2^53; `ValueError` if it is text, a float, or out of range."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
        raise ValueError(f"{value!a:.40} is no whole number from 0 to {_MOST:,}")
    return value
