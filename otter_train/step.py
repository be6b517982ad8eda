"""One optimiser step: forward and backward passes, one global mean, clipping, AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from otter_train.assembly import autocast
from otter_train.config import Precision
from otter_train.data import Batch
from otter_train.distributed import World
from otter_train.model import Otter
from otter_train.pictures import normalise

__all__ = ["StepResult", "mean_loss", "take_step"]


class StepResult(NamedTuple):
    """``loss``: this process's share of the mean over the ``labelled`` tokens of all; both tensors are scalars."""

    loss: Tensor
    labelled: int
    gradient_norm: Tensor


def take_step(
    model: Otter,
    optimizer: Optimizer,
    group: Sequence[Batch | None],
    *,
    device: torch.device,
    world: World,
    clip: float,
    precision: Precision,
) -> StepResult:
    """Update ``model`` from the micro-batches of ``group`` (those of this process).

    The gradient is that of the mean loss over the labelled tokens of all processes and micro-batches, so it does
    not depend on how they were split. Without any labelled token nothing is updated and the loss is 0.
    """
    (labelled,) = world.sum_numbers(sum(batch.labelled for batch in group if batch is not None))
    loss = torch.zeros((), device=device)
    for batch in group:
        if batch is None or batch.labelled == 0:
            continue
        share = mean_loss(model, batch.to(device), precision) * (batch.labelled / labelled)
        share.backward()  # type: ignore[no-untyped-call]
        loss += share.detach()
    parameters = [parameter for pool in optimizer.param_groups for parameter in pool["params"]]
    if world.size > 1:
        for parameter in parameters:
            if parameter.grad is None:  # this process had no labelled token; the others wait for its zeros
                parameter.grad = torch.zeros_like(parameter)
        world.sum_(parameter.grad for parameter in parameters)
    norm = clip_grad_norm_(parameters, clip or float("inf"))
    if labelled:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, labelled, norm)


def mean_loss(model: Otter, batch: Batch, precision: Precision) -> Tensor:
    """The mean loss over the labelled tokens of ``batch``, which lies on the model's device; a scalar."""
    vision_x = normalise(batch.vision_x, model.vision.mean, model.vision.std)
    with autocast(vision_x.device, precision):
        output = model(
            vision_x,
            batch.lang_x,
            batch.attention_mask,
            batch.labels,
            vision_mask=batch.vision_mask,
            keep_logits=False,
        )
    loss: Tensor = output.loss
    return loss
