"""A decoder-only language model of transformers that looks at media, without changing the decoder.

A forward pre-hook on every ``every``-th decoder layer runs a `GatedCrossAttentionBlock` before it, so the decoder's
own state-dict keys stay native. What the blocks look at travels as a keyword argument through transformers to the
layers: nothing is stored between calls, so there is nothing to clear after an exception, and a layer that is
recomputed during the backward pass sees what it saw in the forward pass. The layers of decoders that do not pass on
unknown keywords (MPT, Falcon, GPT-J, BLOOM) find it in a context variable instead, which is set for one call only.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel

from mimicit.errors import TrainError
from otter_train.model.cross_attention import GatedCrossAttentionBlock, MediaKV, MediaMask, MediaRuns
from otter_train.model.documents import KEYWORD as DOCUMENTS
from otter_train.model.documents import Documents, can_pack, look_within_documents
from otter_train.model.families import check_family, decoder_in, family_logits

_KEYWORD = "otter_conditioning"
_LAYER_LISTS = ("layers", "blocks", "h")  # what the decoders of transformers call their layers


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the tokens of one forward pass look at.

    ``media`` are the tokens of all media (B, T_img·n, vis_dim), or the keys and values made of them, one pair per
    block (`ConditionedLanguage.project_media`). ``mask`` says which token sees which; with `MediaRuns`, every medium is
    a row of ``media`` (media, n, vis_dim).
    """

    media: Tensor | tuple[MediaKV, ...]
    mask: MediaMask | MediaRuns

    def media_for(self, block: int) -> Tensor | MediaKV:
        """What block number ``block`` (from 0) looks at."""
        return self.media if isinstance(self.media, Tensor) else self.media[block]


_CURRENT: ContextVar[Conditioning] = ContextVar(_KEYWORD)
"""What the decoder that is running in this thread looks at, for layers that our keyword does not reach."""


class LanguageState(NamedTuple):
    """The last hidden state (B, T, d), after the decoder's final norm, and the cache if it is used."""

    hidden: Tensor
    cache: Cache | None


class ConditionedLanguage(nn.Module):
    """``lm`` with a gated cross-attention block before each layer i where (i + 1) % ``every`` == 0.

    ``lm`` is a causal language model of transformers (>= 5); its keys appear under ``lm.``, those of the block before
    layer i under ``cross_attention.{i}.``. Activation checkpointing of ``lm`` covers the blocks as well.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        *,
        vis_dim: int,
        every: int,
        dim_head: int = 64,
        heads: int = 8,
        gate: float = 0.0,
    ) -> None:
        super().__init__()
        self.lm: Any = lm
        self.dim: int = lm.config.hidden_size
        check_family(lm.config.model_type)
        layers = decoder_layers(lm)
        chosen = [index for index in range(len(layers)) if (index + 1) % every == 0]
        if not chosen:
            raise TrainError(
                f"cross-attention before every {every} of {len(layers)} decoder layers means none at all;"
                f" take at most {len(layers)}"
            )
        blocks = {
            index: GatedCrossAttentionBlock(self.dim, vis_dim, dim_head=dim_head, heads=heads, gate=gate)
            for index in chosen
        }
        self.cross_attention = nn.ModuleDict({str(index): block for index, block in blocks.items()})
        for index, layer in enumerate(layers):
            hook = partial(_look_before, blocks[index], chosen.index(index)) if index in blocks else _only_pass
            layer.register_forward_pre_hook(hook, with_kwargs=True)
        look_within_documents(lm)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all but the decoder, which stays in evaluation mode.

        So it applies no dropout or noise, however its family implements them: what is frozen must not be noisy, and two
        runs must agree. Only layers whose activations are recomputed are in training mode.
        """
        super().train(mode)
        self.lm.eval()
        for layer in decoder_layers(self.lm):
            layer.training = mode and bool(getattr(layer, "gradient_checkpointing", False))
        return self

    @property
    def can_pack(self) -> bool:
        """Whether documents may share a row: they may if the decoder's attention is plain causal softmax."""
        return can_pack(self.lm)

    @property
    def blocks(self) -> list[GatedCrossAttentionBlock]:
        """The cross-attention blocks, in the order of the layers they stand before."""
        return list(self.blocks_by_layer.values())

    @property
    def blocks_by_layer(self) -> dict[int, GatedCrossAttentionBlock]:
        """The cross-attention blocks by the number of the layer they stand before, ascending."""
        blocks = cast("Iterable[tuple[str, GatedCrossAttentionBlock]]", self.cross_attention.items())
        return {int(layer): block for layer, block in blocks}

    def forward(
        self,
        input_ids: Tensor,
        conditioning: Conditioning,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool = False,
    ) -> LanguageState:
        """Read ``input_ids`` (B, T); the masks and the cache are those of transformers."""
        looking = _CURRENT.set(conditioning)
        try:
            output = decoder_in(self.lm)(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=use_cache,
                **{_KEYWORD: conditioning},
            )
        finally:
            _CURRENT.reset(looking)
        return LanguageState(output.last_hidden_state, output.past_key_values if use_cache else None)

    def read_packed(self, input_ids: Tensor, conditioning: Conditioning, documents: Documents) -> Tensor:
        """The last hidden states (1, N, d) of the ``documents`` that share the row ``input_ids`` (1, N).

        `TrainError` if `can_pack` is false.
        """
        if not self.can_pack:
            raise TrainError(f"{type(self.lm).__name__} cannot read packed rows; train with padded batches")
        looking = _CURRENT.set(conditioning)
        try:
            output = decoder_in(self.lm)(
                input_ids=input_ids,
                # transformers passes a mask of four dimensions on as it is. No attention could use this one, so a
                # decoder that does not hand our keyword to its attention raises rather than mix the documents.
                attention_mask=input_ids.new_empty(1, 1, 0, 0, dtype=torch.bool),
                position_ids=documents.positions,
                use_cache=False,
                **{_KEYWORD: conditioning, DOCUMENTS: documents},
            )
        finally:
            _CURRENT.reset(looking)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of hidden states (..., d), scaled and capped as the family does it."""
        return family_logits(self.lm, hidden)

    def project_media(self, media: Tensor) -> tuple[MediaKV, ...]:
        """Keys and values of ``media`` (B, T_img·n, vis_dim) for every block; generation computes them only once."""
        return tuple(block.attn.project(media) for block in self.blocks)


def decoder_layers(lm: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers of ``lm``, in order; `TrainError` if no list of decoder layers is found."""
    decoder = decoder_in(lm)
    for name in _LAYER_LISTS:
        if isinstance(layers := getattr(decoder, name, None), nn.ModuleList):
            return layers
    raise TrainError(f"{type(lm).__name__} has no list of decoder layers ({', '.join(_LAYER_LISTS)})")


def _look_before(
    block: GatedCrossAttentionBlock, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    conditioning, kwargs = _take_conditioning(layer, kwargs)
    inputs = (args[0], conditioning.media_for(number), conditioning.mask)
    # transformers recomputes ``layer.forward`` and not its hooks: the block must be checkpointed on its own.
    if layer.training and getattr(layer, "gradient_checkpointing", False):
        hidden = checkpoint(block, *inputs, use_reentrant=False)
    else:
        hidden = block(*inputs)
    return (hidden, *args[1:]), kwargs


def _only_pass(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, _take_conditioning(layer, kwargs)[1]  # attention kernels need not know our keyword


def _take_conditioning(layer: nn.Module, kwargs: dict[str, Any]) -> tuple[Conditioning, dict[str, Any]]:
    conditioning = kwargs.get(_KEYWORD) or _CURRENT.get(None)
    if conditioning is None:
        raise TrainError(
            f"{type(layer).__name__} was called without its media; call Otter, not the language model inside it"
        )
    return conditioning, {name: value for name, value in kwargs.items() if name != _KEYWORD}
