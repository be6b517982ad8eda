"""One optimiser step: forward and backward passes, one global mean, clipping, AdamW.

`validate` gives the loss on held-out samples while a model is trained: the same prompts and labels, nothing updated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from mimicit.loading.order import Ordered
from mimicit.records import Sample
from otter_train.assembly.models import autocast
from otter_train.config.run_config import Precision
from otter_train.data.batches import Batch, blank_batch, normalise
from otter_train.data.encoding import PromptEncoder
from otter_train.data.micro_batches import GroupCollator, each_group, evaluation_loader
from otter_train.data.packed import PackedBatch
from otter_train.data.vision_cache import FeatureCache
from otter_train.distributed import World, whole
from otter_train.model import Otter
from otter_train.reporting.metrics import EvalRow
from otter_train.training.guard import Guard


class BatchLoss(NamedTuple):
    """``mean``: over the labelled tokens, a scalar; ``row_nats`` float32 (B,): the sum for each sample, detached."""

    mean: Tensor
    row_nats: Tensor


class StepResult(NamedTuple):
    """``loss``: this process's share of the mean over the ``labelled`` tokens of all; both tensors are scalars.

    ``bad`` is a bool scalar: the guard left the step out. ``row_nats`` holds, for each micro-batch that was computed,
    the batch and the summed loss of each of its samples, float32 (B,).
    """

    loss: Tensor
    labelled: int
    gradient_norm: Tensor
    bad: Tensor
    row_nats: tuple[tuple[Batch | PackedBatch, Tensor], ...]


def take_step(
    model: Otter,
    optimizer: Optimizer,
    group: Sequence[Batch | PackedBatch | None],
    *,
    device: torch.device,
    world: World,
    clip: float,
    precision: Precision,
    guard: Guard | None = None,
    features: FeatureCache | None = None,
) -> StepResult:
    """Update ``model`` from the micro-batches of ``group`` (those of this process).

    The gradient is that of the mean loss over the labelled tokens of all processes and micro-batches, so it does
    not depend on how they were split. Without any labelled token nothing is updated and the loss is 0; a step that
    ``guard`` finds bad changes nothing either. Nothing here waits for the device.
    """
    (labelled,) = world.sum_numbers(sum(batch.labelled for batch in group if batch is not None))
    loss = torch.zeros((), device=device)
    if not labelled:
        return StepResult(loss, 0, loss.clone(), loss.bool(), ())
    row_nats = []
    for number, batch in enumerate(group, 1):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(number == len(group))
        elif batch is None or batch.labelled == 0:
            continue
        # The processes of a sharded model compute together: one without labels takes part with a gradient of 0.
        given = blank_batch(model.token_ids.pad, model.vision.image_size) if batch is None else batch
        computed = batch_loss(model, given.to(device), precision, features)
        share = computed.mean * (given.labelled / labelled)
        share.backward()  # type: ignore[no-untyped-call]
        loss += share.detach()
        if batch is not None:
            row_nats.append((batch, computed.row_nats))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = whole(clip_grad_norm_(parameters, clip or float("inf")))
    bad = guard.judge(norm) if guard is not None else torch.zeros_like(loss, dtype=torch.bool)
    if guard is not None:
        # Fused AdamW leaves a step out on the device, as it does for overflows of float16.
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, labelled, norm, bad, tuple(row_nats))


def batch_loss(
    model: Otter, batch: Batch | PackedBatch, precision: Precision, features: FeatureCache | None = None
) -> BatchLoss:
    """The loss of ``batch``, which lies on the model's device; packed or padded, it is the same.

    Patch tokens that ``features`` holds are not computed again.
    """
    with autocast(batch.vision_x.device, precision):
        if isinstance(batch, PackedBatch) and features is not None:
            vision_x = features.tokens(batch.vision_x, batch.picture_keys, batch.kept, batch.order)
        else:
            vision_x = normalise(batch.vision_x, model.vision.mean, model.vision.std)
        if isinstance(batch, PackedBatch):
            output = model(vision_x, batch.lang_x, packing=batch.packing)
        else:
            output = model(
                vision_x,
                batch.lang_x,
                batch.attention_mask,
                batch.labels,
                vision_mask=batch.vision_mask,
                firsts=batch.firsts,
                keep_logits=False,
            )
    return BatchLoss(output.loss, output.row_nats)


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
                # The other processes gather the sharded weights in this step, which takes every process.
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
