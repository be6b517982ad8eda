"""A tensor that is somewhere else: its shape and dtype now, its numbers when they are asked for.

Conversions are written as functions from such tensors to such tensors, so that a file of any size passes through
memory one tensor at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LazyTensor", "concatenated", "replaced_rows", "rows_of", "third_of", "with_rows"]


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """``read()`` gives a tensor of ``shape`` and ``dtype`` on the CPU, each time anew.

    ``read_rows(start, stop)`` gives some of its rows and reads no others; None where it has to be read as a whole.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    read_rows: Callable[[int, int], Tensor] | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> LazyTensor:
        """A tensor that is in memory already."""
        detached = tensor.detach()
        return cls(tuple(tensor.shape), tensor.dtype, lambda: detached, lambda start, stop: detached[start:stop])

    def rows(self, start: int, stop: int) -> Tensor:
        """The rows from ``start`` up to ``stop``."""
        return self.read()[start:stop] if self.read_rows is None else self.read_rows(start, stop)

    def cast(self, dtype: torch.dtype) -> LazyTensor:
        """The same in ``dtype``, where it holds floating-point numbers."""
        if not self.dtype.is_floating_point or self.dtype == dtype:
            return self
        return LazyTensor(
            self.shape, dtype, lambda: self.read().to(dtype), lambda start, stop: self.rows(start, stop).to(dtype)
        )

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def third_of(whole: LazyTensor, third: int) -> LazyTensor:
    """The first, second or last third (0 to 2) of the rows of ``whole``, whose number is a multiple of 3."""
    shape = (whole.shape[0] // 3, *whole.shape[1:])
    return LazyTensor(shape, whole.dtype, lambda: whole.read().chunk(3)[third])


def concatenated(parts: Sequence[LazyTensor]) -> LazyTensor:
    """``parts`` one below the other; they have one dtype and differ at most in their number of rows."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return LazyTensor(shape, parts[0].dtype, lambda: torch.cat([part.read() for part in parts]))


def with_rows(whole: LazyTensor, order: Sequence[int | None]) -> LazyTensor:
    """Row *i* of the result is row ``order[i]`` of ``whole``, or the mean of all its rows where that is None."""

    def read() -> Tensor:
        tensor = whole.read()
        rows = tensor[torch.tensor([0 if place is None else place for place in order])]
        new = [place for place, source in enumerate(order) if source is None]
        if new:
            rows[new] = tensor.double().mean(dim=0).to(tensor.dtype)
        return rows

    return LazyTensor((len(order), *whole.shape[1:]), whole.dtype, read)


def rows_of(whole: LazyTensor, start: int, stop: int) -> LazyTensor:
    """The rows from ``start`` up to ``stop``."""
    return LazyTensor((stop - start, *whole.shape[1:]), whole.dtype, lambda: whole.rows(start, stop))


def replaced_rows(whole: LazyTensor, places: Sequence[int], rows: LazyTensor) -> LazyTensor:
    """``whole`` with ``rows[i]`` at ``places[i]``."""

    def read() -> Tensor:
        tensor = whole.read().clone()
        tensor[torch.tensor(places)] = rows.read().to(tensor.dtype)
        return tensor

    return LazyTensor(whole.shape, whole.dtype, read)
