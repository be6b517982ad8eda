"""The loss on held-out samples while a model is trained: the same prompts and labels, nothing updated."""

from __future__ import annotations

import math

import torch

from otter_train.config import Precision
from otter_train.data import OrderedSamples, batches
from otter_train.distributed import World
from otter_train.encoding import PromptEncoder
from otter_train.metrics import EvalRow
from otter_train.model import Otter
from otter_train.step import mean_loss

__all__ = ["validate"]


def validate(
    model: Otter,
    samples: OrderedSamples,
    encoder: PromptEncoder,
    *,
    step: int,
    limit: int,
    batch_size: int,
    device: torch.device,
    world: World,
    precision: Precision,
) -> EvalRow:
    """The mean loss over the labelled tokens of the first ``limit`` samples after ``step`` steps, on every rank.

    Each rank reads its share of them. The model is in training mode again when this returns.
    """
    count = min(limit, len(samples))
    mine = range(world.rank, count, world.size)
    positions = [list(mine[start : start + batch_size]) for start in range(0, len(mine), batch_size)]
    total = torch.zeros((), dtype=torch.float64)
    labelled = 0
    model.eval()
    with torch.no_grad():
        for batch in batches(samples, encoder, positions, image_size=model.vision.image_size):
            if batch is not None and batch.labelled:
                total += mean_loss(model, batch.to(device), precision).double().cpu() * batch.labelled
                labelled += batch.labelled
    model.train()
    world.sum_([total])
    (labelled,) = world.sum_numbers(labelled)
    loss = total.item() / max(1, labelled)
    return EvalRow(step=step, samples=count, labelled=labelled, loss=loss, perplexity=math.exp(min(loss, 700.0)))
