"""Parameters that have a shape and no numbers yet, and numbers for parameters of which a process may hold a share.

Buffers, which no file holds, are computed as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from otter_train.model.lazy import LazyTensor

__all__ = ["assign", "parameters_on_meta"]


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Every parameter that is made in the block goes to the meta device at once; nothing is drawn by chance.

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
