"""Gated cross-attention from text to the tokens of the one medium that was shown last.

Flamingo's rule (arXiv 2204.14198): a token looks at the immediately preceding medium only. ``text_time`` counts the
``<image>`` tokens up to and including a token; the token sees medium ``text_time``, counted from 1, and at
``text_time`` 0 it sees nothing: its attention output is exactly zero. Both gates start at zero, so a block that is
inserted into a trained model changes nothing at first, bit for bit.

There are two ways to say who sees what. A `MediaMask` covers all media, for rows of any kind. `MediaRuns` are for rows
that are packed: the tokens between one ``<image>`` and the next are brought together and meet the keys of their medium
only, so no score is computed to be thrown away, and a medium that several documents share is projected once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from otter_train.model.perceiver import attend, feed_forward, in_dtype_of, split_heads


class MediaKV(NamedTuple):
    """The keys and values of all media for one block, each (B, heads, T_img·n, dim_head).

    With `MediaRuns`, each medium is a row of its own: (media, heads, n, dim_head).
    """

    keys: Tensor
    values: Tensor


class MediaMask(NamedTuple):
    """What each text token may look at.

    ``keys`` bool (B, 1, T, T_img·n) has no empty row: a token that sees nothing attends to everything there,
    and its result is then set to zero where ``seeing`` bool (B, T, 1) is False.
    """

    keys: Tensor
    seeing: Tensor


def media_mask(text_time: Tensor, *, media_count: int, latents: int) -> MediaMask:
    """The `MediaMask` of tokens with ``text_time`` (B, T), over ``media_count`` media of ``latents`` tokens each."""
    media = torch.arange(1, media_count + 1, device=text_time.device)
    preceding = text_time[..., None] == media
    seeing = preceding.any(dim=-1, keepdim=True)
    keys = (preceding | ~seeing).repeat_interleave(latents, dim=-1)
    return MediaMask(keys[:, None], seeing)


@dataclass(frozen=True, slots=True, eq=False)
class MediaRuns:
    """The tokens of a packed row that see a medium, in runs that see the same one.

    ``tokens`` long (S,) are their places in the row, and ``media`` long (R,) the medium of each run. Each run has
    ``width`` places and fills the first of them; ``places`` long (S,) is the place of each token, below R·width.
    """

    tokens: Tensor
    media: Tensor
    places: Tensor
    width: int

    def to(self, device: torch.device) -> MediaRuns:
        """The same on ``device``."""
        tokens, media, places = (part.to(device, non_blocking=True) for part in (self.tokens, self.media, self.places))
        return MediaRuns(tokens, media, places, self.width)

    def pin_memory(self) -> MediaRuns:
        """The same in pinned memory."""
        return MediaRuns(self.tokens.pin_memory(), self.media.pin_memory(), self.places.pin_memory(), self.width)


class MaskedCrossAttention(nn.Module):
    """Attention from text (width ``dim``) to media tokens (width ``vis_dim``); only the text is normalised."""

    def __init__(self, dim: int, vis_dim: int, *, dim_head: int, heads: int) -> None:
        super().__init__()
        inner = dim_head * heads
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(vis_dim, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def project(self, media: Tensor) -> MediaKV:
        """The keys and values of ``media`` (B, T_img·n, vis_dim); they do not depend on the text."""
        keys, values = self.to_kv(in_dtype_of(self.to_kv.weight, media)).chunk(2, dim=-1)
        return MediaKV(split_heads(keys, self.heads), split_heads(values, self.heads))

    def forward(self, x: Tensor, media: MediaKV, view: MediaMask | MediaRuns) -> Tensor:
        """``x`` (B, T, dim) to (B, T, dim); exactly zero for tokens that see nothing."""
        x = in_dtype_of(self.norm.weight, x)
        if isinstance(view, MediaRuns):
            return self._attend_in_runs(x, media, view)
        queries = split_heads(self.to_q(self.norm(x)), self.heads)
        out: Tensor = self.to_out(attend(queries, media.keys, media.values, view.keys))
        return out.masked_fill(~view.seeing, 0.0)

    def _attend_in_runs(self, x: Tensor, media: MediaKV, runs: MediaRuns) -> Tensor:
        queries: Tensor = self.to_q(self.norm(x[0].index_select(0, runs.tokens)))
        count = len(runs.media)
        apart = queries.new_zeros(count * runs.width, queries.shape[-1]).index_copy(0, runs.places, queries)
        keys, values = (part.index_select(0, runs.media) for part in media)
        if count:
            found = attend(split_heads(apart.view(count, runs.width, -1), self.heads), keys, values, None).flatten(0, 1)
        else:  # without any medium; data-parallel training still waits for the gradients of the keys, which are 0
            found = apart + (media.keys.sum() + media.values.sum()) * 0
        out: Tensor = self.to_out(found.index_select(0, runs.places))
        return torch.zeros_like(x, dtype=out.dtype)[0].index_copy(0, runs.tokens, out)[None]


class GatedCrossAttentionBlock(nn.Module):
    """``x += tanh(attn_gate)·attention(x, media)``, then ``x += tanh(ff_gate)·feed_forward(x)``.

    Both gates start at ``gate``. Closed ones (0) protect a trained language model from random blocks; a model that
    starts from random weights has nothing to protect, and learns several times faster with open ones.
    """

    def __init__(
        self, dim: int, vis_dim: int, *, dim_head: int = 64, heads: int = 8, ff_mult: int = 4, gate: float = 0.0
    ) -> None:
        super().__init__()
        self.attn = MaskedCrossAttention(dim, vis_dim, dim_head=dim_head, heads=heads)
        self.attn_gate = nn.Parameter(torch.full((1,), gate))
        self.feed_forward = feed_forward(dim, ff_mult)
        self.ff_gate = nn.Parameter(torch.full((1,), gate))

    def forward(self, x: Tensor, media: Tensor | MediaKV, view: MediaMask | MediaRuns) -> Tensor:
        """``x`` (B, T, dim) to (B, T, dim), in the dtype of ``x``, which need not be that of the block.

        ``media`` are tokens (B, T_img·n, vis_dim), for `MediaRuns` (media, n, vis_dim), or their keys and values if
        those were computed before. The feed-forward also works on tokens that see no medium, as in OpenFlamingo.
        """
        media_kv = media if isinstance(media, MediaKV) else self.attn.project(media)
        out: Tensor = x + self.attn_gate.tanh() * self.attn(x, media_kv, view)
        out = out + self.ff_gate.tanh() * self.feed_forward(in_dtype_of(self.ff_gate, out))
        return out.to(x.dtype)
