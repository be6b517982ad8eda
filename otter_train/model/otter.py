"""Otter (arXiv 2305.03726): a frozen vision tower and language model, joined by what is trained between them.

``vision_x`` is (B, T_img, F, 3, H, W): media of a prompt lie along T_img, the frames of one video along F. Row *b* of
``lang_x`` holds one ``<image>`` token per medium of that row, and the *j*-th ``<image>`` stands for medium *j*.
Training also takes packed rows (`Packing`), in which documents lie side by side and each picture is held once.

Logits are by far the largest activations of a language model: 16,384 tokens of a vocabulary of 32,004 in float32 are
2.1 GB, and as much again for their gradient. Only labelled tokens get any; above `CHUNK` of them, the logits of each
chunk are freed after use and computed again in the backward pass.

To answer, the model reads the prompt and then one token at a time, with a key-value cache or without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel

from mimicit.errors import TrainError
from otter_train.model.cross_attention import MediaKV, media_mask
from otter_train.model.language import ConditionedLanguage, Conditioning
from otter_train.model.new_rows import NewRows
from otter_train.model.packing import IGNORED, Packing, padding_arguments, positions
from otter_train.model.perceiver import PerceiverResampler
from otter_train.model.vision import VisionTower

CHUNK: Final = 8192
"""The most tokens whose logits are held at a time. Logits of no more than these are computed only once."""


def token_nats(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], *, chunk: int = CHUNK) -> Tensor:
    """The cross-entropy of each token in nats, float32 (N,).

    ``hidden`` (N, d) are the states that predict ``targets`` long (N,); ``head`` makes logits (n, vocabulary) of them.
    Without any token the result is empty but still depends on the weights: its sum is 0, with gradients of 0.
    """
    if len(targets) <= chunk:
        return _nats(hidden, targets, head)
    pieces = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    return torch.cat([checkpoint(_nats, *piece, head, use_reentrant=False) for piece in pieces])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds:
    """The ids of the special tokens in one tokenizer; published checkpoints differ in their order."""

    image: int
    endofchunk: int
    answer: int
    pad: int


class OtterOutput(NamedTuple):
    """``loss`` float32 () if labels were given; ``logits`` float32 (B, T, vocabulary) if they were kept.

    ``row_nats`` float32 (B,), without gradient: the loss of each row, summed over its labelled tokens.
    A tuple, because sharded training finds the tensors of an output only inside of containers that it knows.
    """

    loss: Tensor | None
    logits: Tensor | None
    row_nats: Tensor | None = None


class Otter(nn.Module):
    """The whole model; every parameter is trainable until `otter_train.model.trainable.freeze` says otherwise.

    ``language`` is a LLaMA-family causal language model of transformers; a gated cross-attention block is inserted
    before each of its layers i where (i + 1) % ``cross_attention_every`` == 0, its gates at ``cross_attention_gate``.
    """

    def __init__(
        self,
        *,
        vision: VisionTower,
        perceiver: PerceiverResampler,
        language: PreTrainedModel,
        token_ids: TokenIds,
        cross_attention_every: int,
        cross_attention_heads: int = 8,
        cross_attention_dim_head: int = 64,
        cross_attention_gate: float = 0.0,
    ) -> None:
        super().__init__()
        if vision.dim != perceiver.media_dim:
            raise TrainError(
                f"the vision tower gives tokens of width {vision.dim}, the perceiver takes {perceiver.media_dim}"
            )
        self.vision = vision
        self.perceiver = perceiver
        self.language = ConditionedLanguage(
            language,
            vis_dim=perceiver.dim,
            every=cross_attention_every,
            dim_head=cross_attention_dim_head,
            heads=cross_attention_heads,
            gate=cross_attention_gate,
        )
        self.token_ids = token_ids
        self.new_rows: NewRows | None = None  # see `otter_train.model.trainable.freeze`

    def forward(
        self,
        vision_x: Tensor,
        lang_x: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        vision_mask: Tensor | None = None,
        firsts: Tensor | None = None,
        keep_logits: bool = True,
        packing: Packing | None = None,
    ) -> OtterOutput:
        """Logits of every position, and the mean cross-entropy of the labelled tokens.

        ``vision_x`` float (B, T_img, F, 3, H, W), T_img may be 0; ``vision_mask`` bool (B, T_img, F) is True for the
        frames that exist (None: all do), ``firsts`` long (B, T_img, F) the place of the first frame identical to each
        (see `encode_vision`). ``lang_x`` and ``labels`` are long (B, T), aligned with each other (the shift to the next
        token happens here); ``attention_mask`` is (B, T), true for tokens that are not padding. A batch without any
        label has loss 0, with gradients of 0. ``keep_logits=False`` computes logits only where there are labels, and
        returns none.

        With a ``packing``, ``lang_x`` is its row (1, N), and ``vision_x`` the pictures (n, 3, H, W) that it numbers, or
        their patch tokens (n, v, dim) if those were computed before; labels come from the packing, rows are its
        documents, and no logits are kept.
        `TrainError` if a row does not have one ``<image>`` token per medium.
        """
        if packing is not None:
            return self._read_packed(vision_x, lang_x, packing)
        self.check(vision_x, lang_x, vision_mask)
        media = self.encode_vision(vision_x, vision_mask, firsts)
        view = media_mask(self._text_time(lang_x), media_count=media.shape[1], latents=media.shape[2])
        mask, positions = padding_arguments(attention_mask)
        hidden, _ = self.language(
            lang_x, Conditioning(media.flatten(1, 2), view), attention_mask=mask, position_ids=positions
        )
        if labels is None:
            return OtterOutput(None, self.language.logits(hidden).float())
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        labelled = targets != IGNORED
        logits = self.language.logits(hidden).float() if keep_logits else None
        if logits is None:
            nats = token_nats(hidden[labelled], targets[labelled], self.language.logits)
        else:
            nats = F.cross_entropy(logits[labelled], targets[labelled], reduction="none")
        rows = labelled.nonzero()[:, 0]
        row_nats = nats.new_zeros(len(labels)).index_add(0, rows, nats.detach())
        # If nothing is labelled the sum is 0, and still depends on the weights.
        return OtterOutput(nats.sum() / labelled.sum().clamp(min=1), logits, row_nats)

    def _read_packed(self, vision_x: Tensor, lang_x: Tensor, packing: Packing) -> OtterOutput:
        tokens = self.vision(vision_x) if vision_x.ndim == 4 else vision_x
        tokens = tokens.to(self.perceiver.latents.dtype)
        features = tokens.index_select(0, packing.frames.flatten()).unflatten(0, packing.frames.shape)
        mask = None if packing.frame_mask is None else packing.frame_mask[None]
        media = self.perceiver(features[None], mask)[0]
        hidden = self.language.read_packed(lang_x, Conditioning(media, packing.runs), packing.documents)
        states = hidden[0].index_select(0, packing.predicting)
        nats = token_nats(states, packing.targets, self.language.logits)
        row_nats = nats.new_zeros(packing.count).index_add(0, packing.owners, nats.detach())
        return OtterOutput(nats.sum() / max(1, packing.labelled), None, row_nats)

    def encode_vision(
        self, vision_x: Tensor, vision_mask: Tensor | None = None, firsts: Tensor | None = None
    ) -> Tensor:
        """``vision_x`` (B, T_img, F, 3, H, W) to media tokens (B, max(T_img, 1), num_latents, dim).

        Only frames that exist go through the tower, and only the first of identical ones: ``firsts`` long (B, T_img, F)
        is its flat index over the three dimensions (None: all differ). If there are no frames at all, a blank picture
        that no token sees does: data-parallel training needs every parameter to take part in every step.
        """
        if vision_mask is None:
            vision_mask = vision_x.new_ones(vision_x.shape[:3], dtype=torch.bool)
        shown = vision_mask
        if not vision_mask.any():
            firsts = None
            batch, side = len(vision_x), self.vision.image_size
            vision_x = vision_x.new_zeros(batch, 1, 1, 3, side, side)
            vision_mask = vision_mask.new_zeros(batch, 1, 1)
            shown = vision_mask.clone()
            shown[0] = True
        tokens = self._patch_tokens(vision_x, shown, firsts).to(self.perceiver.latents.dtype)
        features = tokens.new_zeros(*shown.shape, *tokens.shape[1:])
        features[shown] = tokens
        media: Tensor = self.perceiver(features, vision_mask)
        return media

    def _patch_tokens(self, vision_x: Tensor, shown: Tensor, firsts: Tensor | None) -> Tensor:
        """The patch tokens (n, v, dim) of the n frames that are ``shown``; identical ones are encoded once."""
        if firsts is None:
            tokens: Tensor = self.vision(vision_x[shown])
            return tokens
        places, numbers = torch.unique(firsts[shown], return_inverse=True)
        tokens = self.vision(vision_x.flatten(0, 2)[places])
        return tokens[numbers]

    def prompt_reader(
        self,
        vision_x: Tensor,
        lang_x: Tensor,
        attention_mask: Tensor | None = None,
        *,
        vision_mask: Tensor | None = None,
        firsts: Tensor | None = None,
        use_cache: bool = True,
    ) -> _PromptReader:
        """A reader of ``lang_x``, and then of new tokens one after the other, that encodes the media only once.

        The inputs are those of `forward`; padding must be on the left. New tokens look at the last medium of the
        prompt.
        """
        media = self.encode_vision(vision_x, vision_mask, firsts)
        return _PromptReader(
            self.language,
            self.language.project_media(media.flatten(1, 2)),
            text_time=self._text_time(lang_x),
            attention_mask=attention_mask,
            media_count=media.shape[1],
            latents=media.shape[2],
            use_cache=use_cache,
        )

    def _text_time(self, lang_x: Tensor) -> Tensor:
        return (lang_x == self.token_ids.image).cumsum(dim=-1)

    def check(self, vision_x: Tensor, lang_x: Tensor, vision_mask: Tensor | None) -> None:
        """`TrainError` if arguments of `forward` have wrong shapes, or rows do not have one ``<image>`` per medium."""
        side = self.vision.image_size
        if vision_x.ndim != 6 or (vision_x.numel() and vision_x.shape[3:] != (3, side, side)):
            raise TrainError(
                f"vision_x has shape {tuple(vision_x.shape)}; it must be (B, T_img, F, 3, {side}, {side}),"
                " pictures along T_img and the frames of one video along F"
            )
        if len(vision_x) != len(lang_x):
            raise TrainError(f"vision_x has {len(vision_x)} rows and lang_x {len(lang_x)}")
        slots = vision_x.new_ones(vision_x.shape[:2], dtype=torch.bool)
        if vision_mask is not None:
            if vision_mask.shape != vision_x.shape[:3]:
                raise TrainError(f"vision_mask has shape {tuple(vision_mask.shape)}, not {tuple(vision_x.shape[:3])}")
            slots = vision_mask.any(dim=-1)
        shown = slots.sum(dim=-1)
        named = (lang_x == self.token_ids.image).sum(dim=-1)
        # Media must come first in their row: a gap would shift every later picture by one.
        gap = (slots[:, 1:] & ~slots[:, :-1]).any(dim=-1)
        wrong = ((shown != named) | gap).nonzero().flatten()
        if len(wrong):
            row = int(wrong[0])
            raise TrainError(
                f"row {row} of the batch has {int(named[row])} <image> tokens and {int(shown[row])} media"
                f"{', with a gap between them' if bool(gap[row]) else ''}; each medium needs one <image>, in order"
            )


def _nats(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="none")


class _PromptReader:
    """Reads a batch of prompts and what is appended to them, and predicts the next token.

    Without a cache it reads everything again each time: slow, and the reference for the results of the cache.
    """

    def __init__(
        self,
        language: ConditionedLanguage,
        media: tuple[MediaKV, ...],
        *,
        text_time: Tensor,
        attention_mask: Tensor | None,
        media_count: int,
        latents: int,
        use_cache: bool,
    ) -> None:
        self._language = language
        self._media = media
        self._text_time = text_time
        self._real = torch.ones_like(text_time, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        if not self._real[:, -1].all():
            raise TrainError("a prompt ends in padding; pad prompts on the left to generate")
        self._media_count = media_count
        self._latents = latents
        self._use_cache = use_cache
        self._cache: Cache | None = None
        self._ids = text_time.new_empty(len(text_time), 0)

    def read(self, tokens: Tensor) -> Tensor:
        """Append ``tokens`` (B, n), the prompts first; returns the logits float32 (B, vocabulary) after the last."""
        self._ids = torch.cat([self._ids, tokens], dim=1)
        grown = self._ids.shape[1] - self._text_time.shape[1]
        if grown > 0:
            # What is appended still looks at the last medium of its prompt.
            last = self._text_time[:, -1:].expand(-1, grown)
            self._text_time = torch.cat([self._text_time, last], dim=1)
            self._real = torch.cat([self._real, torch.ones_like(last, dtype=torch.bool)], dim=1)
        new = tokens.shape[1] if self._use_cache else self._ids.shape[1]
        view = media_mask(self._text_time[:, -new:], media_count=self._media_count, latents=self._latents)
        state = self._language(
            self._ids[:, -new:],
            Conditioning(self._media, view),
            attention_mask=self._real,
            position_ids=positions(self._real)[:, -new:],
            cache=self._cache,
            use_cache=self._use_cache,
        )
        self._cache = state.cache
        return self._language.logits(state.hidden[:, -1]).float()
