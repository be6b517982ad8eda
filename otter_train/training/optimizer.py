"""AdamW over the trained parameters, and the learning rate as a pure function of the step.

Weight decay reaches only the matrices of the cross-attention blocks: gates, norms, biases, embeddings and the
perceiver are left alone. The published training code intends the same, but selects by name: the LayerNorm at the
beginning of a feed-forward is called ``ff.0.weight``, so it decays there, and here it does not.

If the whole model is trained from scratch, the matrices of the language model and of the vision tower decay too.

Weights that are stored in bfloat16 have an AdamW of their own: every update is computed in float32, and rounded up or
down at random. Next to 1, bfloat16 numbers lie 0.008 apart, so an update of 1e-5 would be rounded away each time; if
the probability of rounding up is the part that would be lost, the update is kept on average. Per trained weight that is
12 bytes (weight and gradient in bfloat16, two moments in float32) instead of 16, and no copy in bfloat16 for the
forward pass. The random numbers are those of the device's own generator, whose state is in every checkpoint. torchao
0.18 has such an optimizer, but not a public one; it keeps the moments in bfloat16 and ignores the guard
(`otter_train.training.guard`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim.adamw import adamw

from otter_train.config.run_config import Schedule
from otter_train.model import Otter
from otter_train.model.cross_attention import GatedCrossAttentionBlock
from otter_train.model.new_rows import NewRows
from otter_train.model.perceiver import PerceiverResampler

_BETA1: Final = 0.9


def make_optimizer(
    model: Otter,
    *,
    lr: float,
    weight_decay: float,
    beta2: float = 0.999,
    whole_model: bool = False,
    rates: Mapping[str, float | None] = MappingProxyType({}),
) -> AdamW:
    """AdamW (fused) over the parameters of ``model`` that require gradients, in groups: decayed and not, by rate.

    ``whole_model`` says that every weight is trained from scratch; see the module docstring. ``rates`` are learning
    rates by the beginning of a parameter's name; the first that fits counts (None: ``lr``). Each group also has its
    rate as ``share`` of ``lr`` (see `set_rates`).
    """
    names = decayed(model, whole_model=whole_model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = next((rate for prefix, rate in rates.items() if name.startswith(prefix)), None)
            key = (lr if own is None else own, weight_decay if name in names else 0.0)
            groups.setdefault(key, []).append(parameter)
    order = sorted(groups, key=lambda key: (key[0] != lr, key[0], -key[1]))  # groups with the run's own rate first
    return AdamW(
        [{"params": groups[key], "lr": key[0], "share": key[0] / lr, "weight_decay": key[1]} for key in order],
        lr=lr,
        betas=(_BETA1, beta2),
        fused=True,
    )


def set_rates(optimizer: Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def decayed(model: Otter, *, whole_model: bool = False) -> set[str]:
    """The names of the parameters that weight decay applies to."""
    within = _parameters_of(model, nn.Module if whole_model else GatedCrossAttentionBlock)
    spared = _parameters_of(model, PerceiverResampler) | _parameters_of(model, nn.Embedding)
    spared |= _parameters_of(model, NewRows)
    spared |= {id(parameter) for parameter in model.language.lm.get_output_embeddings().parameters()}
    return {
        name for name, parameter in model.named_parameters() if parameter.ndim > 1 and id(parameter) in within - spared
    }


def rate_factor(step: int, total: int, *, warmup: float = 0.01, schedule: Schedule = "cosine") -> float:
    """What the learning rate is multiplied by in ``step`` (from 0) of ``total``; between 0 and 1.

    It climbs linearly over the first ``warmup`` share of the steps (at least one), then falls to 0 at ``total``
    as a half cosine or a line, or stays.
    """
    climb = max(1, round(total * warmup))
    if step < climb:
        return (step + 1) / climb
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - climb) / max(1, total - climb))
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def _parameters_of(model: nn.Module, kind: type[nn.Module]) -> set[int]:
    modules = (module for module in model.modules() if isinstance(module, kind))
    return {id(parameter) for module in modules for parameter in module.parameters()}


_DROPPED = 16
"""The last bits of a float32, which bfloat16 does not have."""


class RoundingAdamW(AdamW):
    """AdamW over bfloat16 parameters, with its moments in float32; made of the groups of another AdamW.

    A step that ``found_inf`` marks (see `take_step`) changes neither weights nor moments.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; nothing waits for the device."""
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, found_inf)

    def _update(self, parameter: Tensor, group: dict[str, Any], found_inf: Tensor | None) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.zeros_like(parameter, dtype=torch.float32)
        own = _local(parameter)
        exact = own.float()
        adamw(
            [exact],
            [_local(parameter.grad).float()],
            [_local(state["exp_avg"])],
            [_local(state["exp_avg_sq"])],
            [],
            [state["step"]],
            fused=True,
            found_inf=found_inf,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        own.copy_(round_by_chance(exact))


def round_by_chance(values: Tensor) -> Tensor:
    """float32 ``values``, each rounded at random to one of the two bfloat16 numbers around it; on average unchanged.

    What bfloat16 holds exactly, infinity and NaN stay as they are.
    """
    bits = values.view(torch.int32)
    noise = torch.randint(1 << _DROPPED, bits.shape, device=values.device, dtype=torch.int32)
    # Numbers of one sign are ordered as their bits are: random bits below the last place carry into it with a
    # probability that is the part cut off.
    rounded = ((bits + noise) >> _DROPPED << _DROPPED).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).bfloat16()


def _local(tensor: Tensor | None) -> Tensor:
    """The part of ``tensor`` that this process holds."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    assert tensor is not None
    return tensor
