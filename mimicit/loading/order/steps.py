"""Which positions a step takes on which rank, and what a step of one rank is before it becomes tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from mimicit.errors import UsageError

__all__ = ["PADDING", "Slots", "Split"]

PADDING: Final = -1
"""The position of a slot that only fills the last step of an evaluation."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Slots(Generic[Value]):
    """What one rank sees in global step ``step``: for each slot its position (or `PADDING`) and its value.

    A value is None where the slot is padding, or holds a damaged sample and damage is masked.
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
        """The positions of this rank in ``step``; as many on every rank and in every step."""
        share = self.batch_size // self.world_size
        first = step * self.batch_size + self.rank * share
        end = first + share if self.end is None else self.end
        return [position if position < end else PADDING for position in range(first, first + share)]

    def steps_before_end(self) -> int:
        """Steps that it takes to see every position before ``end``; the same on every rank."""
        if self.end is None:
            raise UsageError("an endless order has no last step; give steps=")
        return -(-self.end // self.batch_size)
