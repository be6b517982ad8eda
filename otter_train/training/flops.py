"""How much arithmetic a training step needs, from the shapes of the model: the numerator of its utilisation.

The count is of what has to be computed: two operations per weight and token forward; two for the gradient of the input,
if anything below is trained; two for that of the weight, if it is trained itself. Recomputed activations do not count,
nor do attention scores between text tokens (below 2% at 512 tokens of a 7B model). So a frozen model costs 4 operations
per weight, not the 6 of the usual rule, which would flatter the utilisation.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import cache
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from otter_train.data.batches import Batch
from otter_train.data.packed import PackedBatch
from otter_train.model import Otter
from otter_train.model.language import decoder_layers
from otter_train.model.perceiver import PerceiverLayer

_SIDE_AND_REPEATS: Final = {"cuda": (8192, 8), "cpu": (512, 3)}


@dataclass(frozen=True, slots=True)
class Work:
    """Text ``tokens`` (without padding), ``pictures`` (frames count one by one) and ``labelled`` tokens of samples."""

    samples: int = 0
    tokens: int = 0
    pictures: int = 0
    labelled: int = 0

    @classmethod
    def of(cls, batch: Batch | PackedBatch) -> Work:
        """What is in a batch that still lies on the CPU."""
        return cls(len(batch.ids), batch.tokens, batch.pictures, batch.labelled)

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Operations, forward and backward, per text token, per labelled token (the output matrix) and per picture."""

    token: float
    label: float
    picture: float

    def of(self, work: Work) -> float:
        """Operations of ``work``."""
        return self.token * work.tokens + self.label * work.labelled + self.picture * work.pictures


def count_flops(model: Otter, *, with_tower: bool = True) -> Flops:
    """The `Flops` of ``model``, which may lie on the meta device but must not be sharded yet.

    ``with_tower=False``: patch tokens are cached, so the vision tower does not count.
    """
    lm = model.language.lm
    below = _is_trained(lm.get_input_embeddings()) or model.new_rows is not None
    token = 0.0
    blocks = model.language.blocks_by_layer
    for index, layer in enumerate(decoder_layers(lm)):
        if (block := blocks.get(index)) is not None:
            token += _cost(block, input_gradient=below) - _cost(block.attn.to_kv, input_gradient=below)
            below = below or _is_trained(block)
        token += _cost(layer, input_gradient=below)
        below = below or _is_trained(layer)
    return Flops(token=token, label=_cost(lm.get_output_embeddings()), picture=_picture(model, with_tower=with_tower))


@cache
def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product on ``device``: the denominator of the utilisation.

    Measured once in a process, so that it holds for this machine as it is now; a few milliseconds of work, or a few
    tenths of a second for a processor that has no arithmetic for ``dtype``.
    """
    side, repeats = _SIDE_AND_REPEATS["cuda" if device.type == "cuda" else "cpu"]
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _picture(model: Otter, *, with_tower: bool) -> float:
    """The tower's forward pass (three times if it is trained), the perceiver and the keys made of its tokens."""
    perceiver, latents = model.perceiver, model.perceiver.num_latents
    forward, patches = _tower(model)
    total = forward * (3 if _is_trained(model.vision) else 1) if with_tower else 0.0
    if perceiver.project is not None:
        total += patches * _cost(perceiver.project, input_gradient=_is_trained(model.vision))
    for layer in cast("Iterable[PerceiverLayer]", perceiver.layers):
        total += latents * _cost(layer) + patches * _cost(layer.to_kv)
        total += 3 * 2 * 2 * latents * (latents + patches) * layer.to_q.out_features  # scores and weighted sums
    return total + latents * sum(_cost(block.attn.to_kv) for block in model.language.blocks)


def _tower(model: Otter) -> tuple[float, int]:
    """Operations of the forward pass for one picture, and its patch tokens.

    It runs on the meta device; only towers that depend on the values of pixels really encode a picture.
    """
    tower = model.vision
    state = {name: torch.empty_like(value, device="meta") for name, value in tower.state_dict(keep_vars=True).items()}
    state |= {name: torch.empty_like(value, device="meta") for name, value in tower.named_buffers()}
    dtype = next(tower.parameters()).dtype
    picture = torch.empty(1, 3, tower.image_size, tower.image_size, device="meta", dtype=dtype)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            tokens = functional_call(tower, state, (picture,))
    except NotImplementedError:  # there are no numbers on the meta device
        picture = torch.zeros_like(picture, device=next(tower.parameters()).device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            tokens = tower(picture)
    return float(counter.get_total_flops()), tokens.shape[1]


def _cost(module: nn.Module, *, input_gradient: bool = True) -> float:
    """Operations per token of the linear layers of ``module``."""
    linear: list[nn.Module] = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if not linear:  # GPT-2 and its kin have a class of their own for it
        linear = [part for part in module.modules() if getattr(getattr(part, "weight", None), "ndim", 0) == 2]
    return float(sum((2 + 2 * input_gradient + 2 * _is_trained(part)) * _weights(part) for part in linear))


def _weights(module: nn.Module) -> int:
    return cast("Tensor", module.weight).numel()


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
