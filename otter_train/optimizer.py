"""AdamW over the trained parameters, and the learning rate as a pure function of the step.

Weight decay reaches only the matrices of the cross-attention blocks: gates, norms, biases, embeddings and the
perceiver are left alone. The published training code means the same, and says it by names; the LayerNorm at the
beginning of a feed-forward is called ``ff.0.weight``, so there it decays, and here it does not.

Where the whole model is trained from scratch, the matrices of the language model and of the vision tower decay too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from torch import nn
from torch.optim import AdamW, Optimizer

from otter_train.config import Schedule
from otter_train.model import Otter
from otter_train.model.cross_attention import GatedCrossAttentionBlock
from otter_train.model.new_rows import NewRows
from otter_train.model.perceiver import PerceiverResampler

__all__ = ["decayed", "make_optimizer", "rate_factor", "set_rates"]

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

    ``whole_model`` says that every weight is trained from scratch; see the module docstring. ``rates`` are those of
    parameters by the beginning of their names, the first that fits; None: ``lr``. Each group has its rate as
    ``share`` of ``lr``, too (see `set_rates`).
    """
    names = decayed(model, whole_model=whole_model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = next((rate for prefix, rate in rates.items() if name.startswith(prefix)), None)
            key = (lr if own is None else own, weight_decay if name in names else 0.0)
            groups.setdefault(key, []).append(parameter)
    order = sorted(groups, key=lambda key: (key[0] != lr, key[0], -key[1]))  # those of the run's own rate first
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
