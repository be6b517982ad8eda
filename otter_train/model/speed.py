"""Trade-offs in training a decoder: memory for arithmetic or precision, and a slow start for speed.

`quantise` keeps a frozen decoder in 8 or 4 bits, by torchao: what is never updated needs no full precision. The
matrices of the decoder layers are stored as ``int8`` (a scale for each row) or ``nf4`` (Dettmers et al., arXiv
2305.14314: 4 bits, blocks of 64 with scales that are quantised themselves). Each is dequantised where it is used, in
the forward pass and again for the gradient of its input, so that no step keeps more than one in full. Embeddings, norms
and the output matrix stay as they are. Checkpoints do not store the result: the same matrices give the same bits.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from mimicit.errors import TrainError, UsageError
from otter_train.config.run_config import Quantised
from otter_train.model.language import decoder_layers
from otter_train.model.otter import Otter

_SHAPES = 64  # compiled before a layer falls back to eager execution; rows of a token budget have one or a few

_BLOCK: Final = 64
_BLOCKS_PER_SCALE: Final = 256


def recompute_activations(model: Otter, every: int) -> None:
    """Keep no activations of every ``every``-th decoder layer and of the block before it (0: keep all of them).

    They are computed again in the backward pass. 1 costs a third more arithmetic and needs a small part of the memory;
    2 costs a sixth more. `UsageError` below 0, `TrainError` if the decoder of transformers cannot recompute.
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
    eager: it is one kernel, and its boundaries differ from batch to batch. The names of the weights do not change.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for layer in decoder_layers(model.language.lm):
        layer.forward = torch.compile(layer.forward, dynamic=False)
    for block in model.language.blocks:
        inner: nn.Module = block.feed_forward
        inner.forward = torch.compile(inner.forward, dynamic=False)


class QuantisedLinear(nn.Linear):
    """A frozen `nn.Linear` whose weight is stored in few bits, made from an ordinary one."""

    def __init__(self, linear: nn.Linear, kind: Quantised, device: torch.device) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().to(device)
        self.weight = nn.Parameter(_int8(weight) if kind == "int8" else _nf4(weight), requires_grad=False)
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        """Like that of `nn.Linear`, and in the same precision under autocast."""
        place = input.device.type
        if torch.is_autocast_enabled(place):
            input = input.to(torch.get_autocast_dtype(place))
        product: Tensor = _Product.apply(input, self.weight)
        return product if self.bias is None else product + self.bias.to(product.dtype)


def check_quantiser(kind: Quantised | None) -> None:
    """`UsageError` if ``kind`` is given and torchao is not installed."""
    if kind is None:
        return
    try:
        from torchao.quantization import Int8WeightOnlyConfig, NF4Tensor  # noqa: F401
    except ImportError:
        raise UsageError("--quantize-language needs torchao: pip install 'mimicit[quantize]'") from None


def quantise(lm: PreTrainedModel, kind: Quantised, device: torch.device) -> None:
    """Store the frozen matrices in the layers of ``lm`` as ``kind``, on ``device``, one after the other.

    `TrainError` if no layer has a matrix that can be quantised.
    """
    inside = {id(module) for layer in decoder_layers(lm) for module in layer.modules()}
    found = [(name, one) for name, one in lm.named_modules() if type(one) is nn.Linear and id(one) in inside]
    chosen = [(name, one) for name, one in found if not one.weight.requires_grad and one.weight.numel() % _BLOCK == 0]
    if not chosen:
        raise TrainError(
            f"--quantize-language {kind}: a {lm.config.model_type} model has no linear layers that can be quantised; "
            "leave it out"
        )
    for name, linear in chosen:
        lm.set_submodule(name, QuantisedLinear(linear, kind, device))


def quantised_count(model: nn.Module) -> int:
    """How many weights of ``model`` are stored in few bits."""
    return sum(one.weight.numel() for one in model.modules() if isinstance(one, QuantisedLinear))


class _Product(torch.autograd.Function):
    """``input @ weight.T``, which saves the quantised weight for the backward pass, not the full one."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return F.linear(input, _whole(weight, input.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ _whole(ctx.weight, gradient.dtype), None


def _int8(weight: Tensor) -> Tensor:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(linear, Int8WeightOnlyConfig())
    return linear.weight.detach()


def _nf4(weight: Tensor) -> Tensor:
    from torchao.quantization import NF4Tensor

    blocks = math.gcd(weight.numel() // _BLOCK, _BLOCKS_PER_SCALE)  # 256 in every model of some size
    found: Tensor = NF4Tensor.from_tensor(weight.contiguous(), _BLOCK, blocks)
    return found


def _whole(weight: Any, dtype: torch.dtype) -> Tensor:
    """The quantised ``weight`` as a full matrix in ``dtype``."""
    whole: Tensor = weight.get_original_weight() if hasattr(weight, "get_original_weight") else weight.dequantize(dtype)
    return whole.to(dtype)
