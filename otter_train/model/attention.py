"""What the perceiver and the gated cross-attention share: multi-head attention without biases, and the feed-forward.

Attention runs through `torch.nn.functional.scaled_dot_product_attention`; the scale is ``dim_head ** -0.5``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["attend", "feed_forward", "in_dtype_of", "split_heads"]


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

    Autocast brings them together itself, and keeps more digits where it can.
    """
    return x if torch.is_autocast_enabled(x.device.type) else x.to(weight.dtype)
