"""One process or many: the few collectives that a training step needs, all of them no-ops alone.

``torchrun`` starts one process per device. Each holds the whole model and its own slice of every batch; what crosses
the wire in a step is one pair of numbers and the gradients of the trained parameters.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mimicit.errors import UsageError

__all__ = ["World", "join_world", "pick_device"]

_BUCKET_BYTES = 1 << 28  # gradients travel in pieces of this size: few messages, little extra memory


@dataclass(frozen=True, slots=True)
class World:
    """The processes of one run; this one is ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """True in the one process that writes files and speaks."""
        return self.rank == 0

    def sum_numbers(self, *numbers: int) -> tuple[int, ...]:
        """Each number summed over all processes."""
        if self.size == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.int64)  # on the CPU, so no device has to be waited for
        dist.all_reduce(total)
        return tuple(total.tolist())

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Sum ``tensors`` of one dtype over all processes, in place."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            pieces = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, piece in zip(bucket, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def join_world(device: torch.device) -> World:
    """The world that ``torchrun`` describes in the environment; alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return World(rank=dist.get_rank(), size=size)


def pick_device(name: str) -> torch.device:
    """``auto`` (the GPU of this process where there is one, else the CPU) or a device by its torch name."""
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name}: cannot be used here ({reason}); --device auto finds one") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.nbytes
        if size >= _BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
