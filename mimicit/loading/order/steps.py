"""Which positions a step takes on which rank, and what a step of one rank is before it becomes tensors.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np

from mimicit.errors import UsageError

PADDING: Final = -1
"""The position of a slot that only fills the last step of an evaluation."""

Value = TypeVar("Value")

Address = Any
"""Where one value lies, as its own `Ordered.fetch` knows it: small, hashable, picklable."""

PARTS = ("content", "order", "filter", "mixture", "packing")
"""What fixes the value at a position; each has a fingerprint of its own, so that a mismatch can be named."""

Value_co = TypeVar("Value_co", covariant=True)

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
