from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from otter_train.model.packing import padding_arguments, positions

MASKS = st.integers(1, 3).flatmap(
    lambda rows: st.integers(1, 6).flatmap(
        lambda length: st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=rows, max_size=rows)
    )
)


@given(MASKS)
def test_positions_count_the_real_tokens_of_a_row(rows: list[list[bool]]) -> None:
    for row, placed in zip(rows, positions(torch.tensor(rows)).tolist(), strict=True):
        real = [place for place, is_real in zip(placed, row, strict=True) if is_real]
        assert real == list(range(sum(row)))
        assert min(placed) >= 0


@given(MASKS)
def test_only_padding_before_a_token_needs_a_mask(rows: list[list[bool]]) -> None:
    mask, placed = padding_arguments(torch.tensor(rows).long())
    right_padded = all(row == sorted(row, reverse=True) for row in rows)
    assert (mask is None) == (placed is None) == right_padded
    if mask is not None:
        assert mask.tolist() == rows


def test_no_mask_stays_none() -> None:
    assert padding_arguments(None) == (None, None)
