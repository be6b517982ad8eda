"""The Perceiver resampler: any number of patch tokens of any number of frames in, ``num_latents`` tokens out.

Learned latents attend to the media tokens and to themselves (Flamingo, arXiv 2204.14198, figure 5). Frames of one
medium are flattened into the keys, so a clip of eight frames costs the language model no more than a picture.

Its blocks share with the gated cross-attention the multi-head attention without biases, through
`torch.nn.functional.scaled_dot_product_attention` at a scale of ``dim_head ** -0.5``, and the feed-forward.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimicit.errors import TrainError


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads·dim_head) to (B, heads, N, dim_head)."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention over split heads: (B, heads, N, dim_head) to (B, N, heads·dim_head).

    ``mask`` is boolean, broadcastable to (B, heads, N, K), True where a query may look. No row of it may be all
    False: softmax over nothing is NaN, and a NaN spreads through the gradients even where it is multiplied by zero.
    """
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def feed_forward(dim: int, mult: int) -> nn.Sequential:
    """LayerNorm, expansion by ``mult``, GELU (erf), contraction; the sub-module numbers are those of checkpoints."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, dim * mult, bias=False),
        nn.GELU(),
        nn.Linear(dim * mult, dim, bias=False),
    )


def in_dtype_of(weight: Tensor, x: Tensor) -> Tensor:
    """``x`` in the dtype of ``weight``: layers take one dtype only, and the parts of a model may differ.

    Under autocast ``x`` stays as it is: autocast converts by itself, and keeps more digits where it can.
    """
    return x if torch.is_autocast_enabled(x.device.type) else x.to(weight.dtype)


class PerceiverLayer(nn.Module):
    """One round: the latents attend to ``cat(media, latents)``, then a feed-forward; both residual."""

    def __init__(self, dim: int, *, dim_head: int, heads: int, ff_mult: int) -> None:
        super().__init__()
        inner = dim_head * heads
        self.heads = heads
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.feed_forward = feed_forward(dim, ff_mult)

    def forward(self, latents: Tensor, media: Tensor, mask: Tensor | None) -> Tensor:
        """``latents`` (N, n, d), ``media`` (N, k, d), ``mask`` bool (N, 1, 1, k + n) or None; returns (N, n, d)."""
        normed = self.norm_latents(latents)
        source = torch.cat([self.norm_media(media), normed], dim=1)
        keys, values = self.to_kv(source).chunk(2, dim=-1)
        out = attend(
            split_heads(self.to_q(normed), self.heads),
            split_heads(keys, self.heads),
            split_heads(values, self.heads),
            mask,
        )
        latents = latents + self.to_out(out)
        grown: Tensor = latents + self.feed_forward(latents)
        return grown


class PerceiverResampler(nn.Module):
    """Resamples the patch tokens of each medium to ``num_latents`` tokens of width ``dim``.

    ``max_num_frames`` adds a learned embedding per frame; only checkpoints trained on video have one. The latents start
    with standard deviation ``latent_std``: with the published 1.0, nine tenths of the output are at first the same for
    every picture; smaller latents let more of the picture through, for short trainings. Media tokens of another
    width, ``media_dim``, are projected first; the published perceivers are as wide as their towers.
    """

    def __init__(
        self,
        dim: int,
        *,
        depth: int = 6,
        dim_head: int = 64,
        heads: int = 8,
        num_latents: int = 64,
        ff_mult: int = 4,
        max_num_frames: int | None = None,
        latent_std: float = 1.0,
        media_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.media_dim = dim if media_dim is None else media_dim
        self.num_latents = num_latents
        self.project = None if media_dim is None else nn.Linear(media_dim, dim, bias=False)
        self.latents = nn.Parameter(torch.randn(num_latents, dim) * latent_std)
        self.frame_embs = None if max_num_frames is None else nn.Parameter(torch.randn(max_num_frames, dim))
        self.layers = nn.ModuleList(
            PerceiverLayer(dim, dim_head=dim_head, heads=heads, ff_mult=ff_mult) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, frame_mask: Tensor | None = None) -> Tensor:
        """``features`` (B, T_img, F, v, media_dim) to (B, T_img, num_latents, dim).

        ``frame_mask`` bool (B, T_img, F) is True for frames that are there; the others are never looked at. A medium
        without any frame gives finite tokens that depend on nothing but the latents. `TrainError` if there are
        more frames than frame embeddings.
        """
        batch, media_count, frames, patches, _ = features.shape
        if self.project is not None:
            features = self.project(features)
        if self.frame_embs is not None:
            if frames > len(self.frame_embs):
                raise TrainError(
                    f"a clip has {frames} frames and the perceiver {len(self.frame_embs)} frame embeddings;"
                    " take fewer frames per clip"
                )
            features = features + self.frame_embs[:frames, None]
        media = features.flatten(0, 1).flatten(1, 2)
        mask = None
        if frame_mask is not None:
            keys = frame_mask.flatten(0, 1).repeat_interleave(patches, dim=-1)
            # The latents are always among the keys, so no row of the mask is empty.
            mask = F.pad(keys, (0, self.num_latents), value=True)[:, None, None]
        latents = self.latents.expand(batch * media_count, -1, -1)
        for layer in self.layers:
            latents = layer(latents, media, mask)
        # Not a view of something else: sharded training puts hooks on what a module returns.
        resampled: Tensor = self.norm(latents.reshape(batch, media_count, *latents.shape[1:]))
        return resampled
