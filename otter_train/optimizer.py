"""AdamW over the trained parameters, and the learning rate as a pure function of the step.

Weight decay reaches only the matrices of the cross-attention blocks: gates, norms, biases, embeddings and the
perceiver are left alone. The published training code means the same, and says it by names; the LayerNorm at the
beginning of a feed-forward is called ``ff.0.weight``, so there it decays, and here it does not.

Where the whole model is trained from scratch, the matrices of the language model and of the vision tower decay too.
"""

from __future__ import annotations

import math
from typing import Final

from torch import nn
from torch.optim import AdamW

from otter_train.config import Schedule
from otter_train.model import Otter
from otter_train.model.cross_attention import GatedCrossAttentionBlock
from otter_train.model.new_rows import NewRows
from otter_train.model.perceiver import PerceiverResampler

__all__ = ["decayed", "make_optimizer", "rate_factor"]

_BETA1: Final = 0.9


def make_optimizer(
    model: Otter, *, lr: float, weight_decay: float, beta2: float = 0.999, whole_model: bool = False
) -> AdamW:
    """AdamW (fused) over the parameters of ``model`` that require gradients, in two groups: decayed and not.

    ``whole_model`` says that every weight is trained from scratch; see the module docstring.
    """
    names = decayed(model, whole_model=whole_model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for name, parameter in trained if name in names], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained if name not in names], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=lr, betas=(_BETA1, beta2), fused=True)


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
