"""One process or many: their ranks, how the model is spread over them, and how they exchange values.

``torchrun`` starts one process per device. Frozen weights are whole on every device, as they are only read; trained
weights are sharded with their gradients and AdamW's moments (`fully_shard`), and gathered layer by layer when they are
needed. Cost: the trained weights once over the wire per forward pass, and their gradients once per backward pass.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mimicit.errors import UsageError
from otter_train.model import Otter
from otter_train.model.language import decoder_layers

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class World:
    """The processes of one run; this one is ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """True in the one process that writes files and the log."""
        return self.rank == 0

    def sum_numbers(self, *numbers: int) -> tuple[int, ...]:
        """Each number summed over all processes."""
        if self.size == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.int64)  # on the CPU, so no device has to be waited for
        dist.all_reduce(total)
        return tuple(total.tolist())

    def sum_(self, tensor: Tensor) -> None:
        """Sum ``tensor`` over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def gather(self, value: Value) -> list[Value]:
        """The ``value`` of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def of_first(self, value: Value) -> Value:
        """The ``value`` of the first process, on all of them."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            dist.barrier()


def join_world(device: torch.device) -> World:
    """The world that ``torchrun`` describes in the environment; without it, one process."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return World(rank=dist.get_rank(), size=size)


def pick_device(name: str) -> torch.device:
    """``auto`` (the GPU of this process if there is one, else the CPU) or a device by its torch name."""
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


def shard(model: Otter, world: World, device: torch.device, *, frozen: bool = False) -> None:
    """Shard what is trained in ``model``, with ``frozen`` the rest too, over all processes; with one, do nothing.

    Gradients are summed over the processes, not averaged: every one of them has divided by the global number of
    labels. Call it after `freeze` and before the optimiser is made. Each process must have the same weights. Parameters
    on the meta device get memory for this process's share, but no values yet.
    """
    if world.size == 1:
        return
    mesh = init_device_mesh(device.type, (world.size,))
    replicated = set() if frozen else {one for one in model.parameters() if not one.requires_grad}
    parts: list[nn.Module] = [model.perceiver, *model.language.blocks, *decoder_layers(model.language.lm)]
    for module in [*parts, model]:  # the model last: it takes what none of its parts has
        if not replicated.issuperset(module.parameters()):
            fully_shard(module, mesh=mesh, ignored_params=replicated)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    if any(parameter.is_meta for parameter in model.parameters()):
        model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)  # type: ignore[no-untyped-call]


def whole(tensor: Tensor) -> Tensor:
    """``tensor``, gathered from its shards if it has any; every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """The whole ``tensor`` on the device of ``pattern``, sharded as that is; the first process's values count."""
    tensor = tensor.to(pattern.device)
    if isinstance(pattern, DTensor) and tensor.ndim:
        return distribute_tensor(tensor, pattern.device_mesh, pattern.placements)
    return tensor
