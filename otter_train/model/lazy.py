"""Lazy tensors: shape and dtype are known, the numbers are read on demand.

Conversions are written as functions from lazy tensors to lazy tensors, so that a file of any size passes through memory
one tensor at a time. Models are built of parameters that have a shape and no numbers yet, so that each process fills in
its own share; buffers, which no file holds, are computed as usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """``read()`` returns a tensor of ``shape`` and ``dtype`` on the CPU, read again at each call.

    ``read_rows(start, stop)`` returns some of its rows and reads no others; None if only the whole can be read.
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
        """The same in ``dtype``; unchanged unless it holds floating-point numbers."""
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
    """Row *i* of the result is row ``order[i]`` of ``whole``, or the mean of all its rows if that is None."""

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


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Move every parameter to the meta device as soon as the block makes it; torch's CPU generator stays as it was.

    Not for threads: torch's own registration of parameters is replaced for the length of the block.
    """
    register = nn.Module.register_parameter

    def register_empty(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:
            empty = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
            empty.__dict__.update(param.__dict__)
            self._parameters[name] = empty

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def assign(parameter: Tensor, source: Tensor | LazyTensor) -> None:
    """Copy ``source``, which is whole, into ``parameter``, of which this process may hold some rows only."""
    lazy = source if isinstance(source, LazyTensor) else LazyTensor.of(source)
    with torch.no_grad():
        if not isinstance(parameter, DTensor):
            parameter.copy_(lazy.read())
            return
        own = parameter.to_local()
        per_process = -(-parameter.shape[0] // parameter.device_mesh.size())
        start = min(parameter.device_mesh.get_local_rank() * per_process, parameter.shape[0])
        if len(own):
            own.copy_(lazy.rows(start, start + len(own)))
