"""Cross-entropy of chosen tokens, with the logits of a few thousand of them in memory at a time.

Logits are by far the largest activations of a language model: 16,384 tokens of a vocabulary of 32,004 in float32 are
2.1 GB, and as much again for their gradient. Only labelled tokens get any; where those are many, the logits of each
chunk are made, used and forgotten, and made again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = ["CHUNK", "token_nats"]

CHUNK: Final = 8192
"""Tokens whose logits are held at once. Fewer are never computed twice."""


def token_nats(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], *, chunk: int = CHUNK) -> Tensor:
    """The cross-entropy of each token in nats, float32 (N,).

    ``hidden`` (N, d) are the states that predict ``targets`` long (N,); ``head`` makes logits (n, vocabulary) of them.
    Without any token the result is empty, and still tied to the weights, so its sum is 0 and has gradients of 0.
    """
    if len(targets) <= chunk:
        return _nats(hidden, targets, head)
    pieces = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    return torch.cat([checkpoint(_nats, *piece, head, use_reentrant=False) for piece in pieces])


def _nats(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="none")
