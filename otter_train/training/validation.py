"""The loss on held-out samples while a model is trained: the same prompts and labels, nothing updated."""

from __future__ import annotations

import math

import torch
from torch.distributed.fsdp import FSDPModule

from mimicit.loading.order.steps import Ordered
from mimicit.records import Sample
from otter_train.config.run_config import Precision
from otter_train.data.batches import blank_batch
from otter_train.data.encoding import PromptEncoder
from otter_train.data.micro_batches import GroupCollator, each_group, evaluation_loader
from otter_train.distributed import World
from otter_train.model import Otter
from otter_train.reporting.metrics import EvalRow
from otter_train.training.step import batch_loss

__all__ = ["validate"]


def validate(
    model: Otter,
    samples: Ordered[Sample],
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

    Each rank reads its share of them, ``batch_size`` at a time; all take equally many steps, the last of which may be
    padding. Samples too long to be shown are left out. The model is in training mode again when this returns.
    """
    collator = GroupCollator(encoder=encoder, image_size=model.vision.image_size)
    loader = evaluation_loader(samples, collator, limit=limit, batch_size=batch_size, world=world)
    total = torch.zeros((), dtype=torch.float64)
    labelled = count = 0
    model.eval()
    with torch.no_grad():
        for (batch,) in each_group(loader):
            if batch is None and isinstance(model, FSDPModule):
                # The others put the weights together in this step, which takes all of them.
                batch_loss(model, blank_batch(encoder.special.pad, model.vision.image_size).to(device), precision)
            elif batch is not None:
                total += batch_loss(model, batch.to(device), precision).row_nats.double().sum().cpu()
                labelled += batch.labelled
                count += len(batch.ids)
    model.train()
    if isinstance(model, FSDPModule):
        model.reshard()  # what a backward pass would have done
    world.sum_(total)
    labelled, count = world.sum_numbers(labelled, count)
    loss = total.item() / max(1, labelled)
    return EvalRow(step=step, samples=count, labelled=labelled, loss=loss, perplexity=math.exp(min(loss, 700.0)))
