"""Two trades for the decoder of a model that is trained: memory against arithmetic, and a slow start against speed."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mimicit.errors import TrainError, UsageError
from otter_train.model.language import decoder_layers
from otter_train.model.otter import Otter

__all__ = ["compile_blocks", "recompute_activations"]

_SHAPES = 64  # compiled before a layer falls back to eager execution; rows of a token budget have one or a few


def recompute_activations(model: Otter, every: int) -> None:
    """Keep no activations of every ``every``-th decoder layer and of the block before it (0: keep all of them).

    They are computed again in the backward pass. 1 costs a third more arithmetic for a small part of the memory; 2
    costs half of that. `UsageError` below 0, `TrainError` where the decoder of transformers cannot do it.
    """
    if every < 0:
        raise UsageError(f"activations of every {every} layers: give 0 for none, or at least 1")
    for index, layer in enumerate(decoder_layers(model.language.lm)):
        if every and not hasattr(type(layer), "gradient_checkpointing"):
            raise TrainError(f"the activations of {type(layer).__name__} cannot be recomputed; leave the option out")
        layer.gradient_checkpointing = every > 0 and (index + 1) % every == 0  # type: ignore[assignment]
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
    model.language.train(model.language.training)  # tells these layers


def compile_blocks(model: Otter) -> None:
    """Compile each decoder layer and each feed-forward of the cross-attention by itself, for fixed shapes.

    All layers are alike, so one is compiled for all, in about a minute on a GPU. Attention within documents stays
    eager: it is one kernel, and its boundaries are other numbers each time. The names of the weights do not change.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for layer in decoder_layers(model.language.lm):
        layer.forward = torch.compile(layer.forward, dynamic=False)
    for block in model.language.blocks:
        inner: nn.Module = block.feed_forward
        inner.forward = torch.compile(inner.forward, dynamic=False)
