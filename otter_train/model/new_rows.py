"""The embedding rows of added tokens as parameters of their own, so that the matrices they belong to stay frozen.

A frozen matrix needs no gradient and no optimiser state: four tokens of LLaMA-7B need 32,768 of each instead of 262
million. Training these rows is training the whole matrices with the gradient of every other row set to 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle


class NewRows(nn.Module):
    """Stands in for the rows ``ids`` of an embedding and of an output matrix.

    ``input`` and ``output`` are (n, d), row *k* for the *k*-th smallest of ``ids``; ``output`` is None if
    both matrices are one. They start as copies of the rows they stand for. Hooks apply them, so the names of all
    other weights stay the same; `detach` removes the hooks and `fold` writes the rows into the matrices.
    """

    ids: Tensor

    def __init__(self, embedding: Any, head: Any, ids: Iterable[int]) -> None:
        super().__init__()
        place = embedding.weight.device
        rows = torch.tensor(sorted(set(ids)), device="cpu" if place.type == "meta" else place)
        self.register_buffer("ids", rows, persistent=False)
        self.input = nn.Parameter(_rows_of(embedding, rows))
        tied = head.weight is embedding.weight
        self.output = None if tied else nn.Parameter(_rows_of(head, rows))
        self._handles: list[RemovableHandle] = [
            embedding.register_forward_hook(self._embed),
            head.register_forward_hook(self._score),
        ]

    def detach(self) -> None:
        """Remove the hooks, so that the matrices work as they did before."""
        for handle in self._handles:
            handle.remove()

    def fold(self, embedding: Any, head: Any) -> None:
        """Write the rows into the two matrices, for a model that is to work without this module."""
        with torch.no_grad():
            embedding.weight[self.ids] = self.input.to(embedding.weight.dtype)
            if self.output is not None:
                head.weight[self.ids] = self.output.to(head.weight.dtype)

    def _embed(self, module: nn.Module, args: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        """``embedded`` (..., d) of the ids ``args[0]`` (...), with the new rows for those in ``ids``."""
        matches = args[0][..., None] == self.ids
        chosen = F.embedding(matches.byte().argmax(dim=-1), self.input).to(embedded.dtype)
        chosen = chosen * getattr(module, "embed_scale", 1.0)  # Gemma 3 scales inside of its embedding
        return torch.where(matches.any(dim=-1, keepdim=True), chosen, embedded)

    def _score(self, module: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        """``logits`` (..., vocabulary) of hidden states ``args[0]`` (..., d), with those of the new rows."""
        rows = self.input if self.output is None else self.output
        bias = getattr(module, "bias", None)
        scores = F.linear(args[0], rows.to(args[0].dtype), None if bias is None else bias[self.ids])
        return logits.index_copy(-1, self.ids, scores.to(logits.dtype))


def _rows_of(module: Any, rows: Tensor) -> Tensor:
    chosen: Tensor = module.weight.detach()[rows].clone()
    return chosen
