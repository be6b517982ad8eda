"""Which attention mask and positions a padded batch needs."""

from __future__ import annotations

from torch import Tensor

__all__ = ["padding_arguments", "positions"]


def padding_arguments(attention_mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The ``attention_mask`` and ``position_ids`` for a decoder that reads a whole batch.

    Padding on the right needs neither: no earlier token sees it, and without a mask attention runs on its fast
    causal kernels. Padding on the left, or inside, needs both.
    """
    if attention_mask is None:
        return None, None
    real = attention_mask.bool()
    if not (real[:, 1:] & ~real[:, :-1]).any():
        return None, None
    return real, positions(real)


def positions(real: Tensor) -> Tensor:
    """Position of every token of ``real`` bool (B, T) among the tokens of its row that are not padding."""
    return (real.cumsum(dim=-1) - 1).clamp(min=0)
