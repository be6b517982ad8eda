"""Attention within documents of a row: documents that are brought together are what they are one by one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from torch import Tensor
from torch.nn import functional as F

from otter_train.model.documents import attend_within, documents_of

LENGTHS = [[1], [7], [64, 1, 65, 63], [130, 66, 3, 64, 129, 3], [5] * 9]
KEYS = {"one": 1, "each": 4}
"""Heads of the keys, for four heads of queries."""


def row(lengths: Sequence[int], key_heads: int) -> list[Tensor]:
    """Queries, keys and values as transformers gives them: (1, heads, N, dim_head), side by side in memory."""
    torch.manual_seed(0)
    heads = (4, key_heads, key_heads)
    return [torch.randn(1, sum(lengths), count, 8).transpose(1, 2).requires_grad_() for count in heads]


def one_by_one(parts: list[Tensor], lengths: Sequence[int]) -> Tensor:
    pieces = zip(*(torch.split(part, list(lengths), dim=2) for part in parts), strict=True)
    found = [F.scaled_dot_product_attention(*piece, is_causal=True, enable_gqa=True) for piece in pieces]
    return torch.cat(found, dim=2).transpose(1, 2)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("keys", KEYS)
def test_documents_brought_together_attend_as_they_do_one_by_one(lengths: list[int], keys: str) -> None:
    parts, others = row(lengths, KEYS[keys]), row(lengths, KEYS[keys])
    found, expected = attend_within(*parts, documents_of(lengths)), one_by_one(others, lengths)
    torch.testing.assert_close(found, expected)
    direction = torch.randn(found.shape)
    found.backward(direction)
    expected.backward(direction)
    for part, other in zip(parts, others, strict=True):
        torch.testing.assert_close(part.grad, other.grad)


def test_what_is_no_number_stays_in_its_document() -> None:
    lengths = [5, 9, 7]
    parts = row(lengths, 4)
    with torch.no_grad():
        for part in parts:
            part[:, :, 5:14] = torch.nan
    found = attend_within(*parts, documents_of(lengths))
    found.nansum().backward()
    sound = torch.tensor([True] * 5 + [False] * 9 + [True] * 7)
    assert torch.equal(found[0].isfinite().flatten(1).all(1), sound)
    for part in parts:
        assert part.grad is not None
        assert part.grad[0].transpose(0, 1)[sound].isfinite().all()
