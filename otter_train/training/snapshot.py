"""What a checkpoint keeps of a model and its optimiser: copied whole to the CPU, restored to any number of processes.

A copy is taken between two steps, so training continues while it is written. Cost: the trained weights and moments once
over the wire if they are sharded, once to the CPU, and as much memory there in the first process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from mimicit.errors import TrainError
from otter_train.assembly.models import kept_weights
from otter_train.config.run_config import RunConfig
from otter_train.distributed import World, like, whole
from otter_train.model import Otter


class Snapshot(NamedTuple):
    """Copies on the CPU by parameter name: `kept_weights`, and the tensors of AdamW (see `OptimizerState`)."""

    weights: dict[str, Tensor]
    optimizer_state: dict[str, dict[str, Tensor]]


def take_snapshot(model: Otter, optimizer: Optimizer, config: RunConfig, world: World) -> Snapshot:
    """The `Snapshot` in the first process; every process must call it, the others get an empty one."""
    snapshot = Snapshot({}, {})
    for name, weight in kept_weights(model, config).items():
        copied = _copy(weight, world)
        if copied is not None:
            snapshot.weights[name] = copied
    for name, parameter in _optimised(model, optimizer):
        for part, tensor in sorted(optimizer.state[parameter].items()):
            copied = _copy(tensor, world)
            if copied is not None:
                snapshot.optimizer_state.setdefault(name, {})[part] = copied
    return snapshot


def restore_optimizer(model: Otter, optimizer: Optimizer, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Give ``optimizer`` the ``state`` of a snapshot, sharded as its parameters are.

    `TrainError` if the two do not have the same parameters.
    """
    names = [name for name, _ in _optimised(model, optimizer)]
    if state and set(state) != set(names):
        wrong = sorted(set(state) ^ set(names))
        raise TrainError(f"the checkpoint's optimiser state does not fit the model: {', '.join(wrong[:5])}")
    # Not by `load_state_dict`, which would round the moments of bfloat16 parameters.
    for name, parameter in _optimised(model, optimizer):
        if state:
            optimizer.state[parameter] = {part: like(tensor, parameter) for part, tensor in state[name].items()}


def _optimised(model: nn.Module, optimizer: Optimizer) -> list[tuple[str, nn.Parameter]]:
    """Name and parameter of all that ``optimizer`` updates, in its order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [(names[id(one)], one) for group in optimizer.param_groups for one in group["params"]]


def _copy(tensor: Tensor, world: World) -> Tensor | None:
    complete = whole(tensor.detach())
    return complete.to("cpu", copy=True) if world.is_first else None
