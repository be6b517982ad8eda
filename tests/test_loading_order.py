"""The order is a bijection for every length, key and mode, and a pure function of position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import UsageError
from mimicit.loading.order import Order, permute


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(length: int, key: int) -> None:
    image = permute(np.arange(length), length, key)
    assert np.array_equal(np.sort(image), np.arange(length))


@given(st.integers(1, 3000), st.sampled_from(["full", "window", None]), st.integers(0, 5), st.integers(0, 3))
def test_every_epoch_shows_each_sample_once(length: int, shuffle: str | None, seed: int, epoch: int) -> None:
    order = Order(length=length, shuffle=shuffle, seed=seed, block=8, window=4)  # type: ignore[arg-type]
    shown = order.at(np.arange(epoch * length, (epoch + 1) * length))
    assert np.array_equal(np.sort(shown), np.arange(length))


@given(st.integers(2, 2000), st.sampled_from(["full", "window"]), st.data())
def test_any_slice_equals_the_whole(length: int, shuffle: str, data: st.DataObject) -> None:
    order = Order(length=length, shuffle=shuffle, block=8, window=4)  # type: ignore[arg-type]
    whole = order.at(np.arange(2 * length))
    first = data.draw(st.integers(0, 2 * length - 1))
    assert np.array_equal(order.at(np.arange(first, 2 * length)), whole[first:])


def test_beyond_32_bits_is_injective_and_in_range() -> None:
    length = 10**12
    places = np.random.default_rng(0).choice(length, 100_000, replace=False)
    image = permute(places, length, 7)
    assert np.unique(image).size == places.size
    assert image.min() >= 0
    assert image.max() < length
    assert abs(image.mean() / length - 0.5) < 0.01


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = [Order(length=1000, seed=seed).at(np.arange(2000)).reshape(2, 1000) for seed in range(2)]
    rows = [tuple(row) for order in orders for row in order]
    assert len(set(rows)) == 4


def test_the_order_is_pinned() -> None:
    """A change here is labelled ITERATION ORDER in the changelog."""
    assert Order(length=10, seed=0).at(list(range(10))).tolist() == GOLDEN_FULL
    window = Order(length=20, seed=0, shuffle="window", block=2, window=2)
    assert window.at(list(range(20))).tolist() == GOLDEN_WINDOW


def test_wrong_use_is_named() -> None:
    with pytest.raises(UsageError, match="no sample"):
        Order(length=0)
    with pytest.raises(UsageError, match="start at 0"):
        Order(length=3).at([-1])


GOLDEN_FULL = [5, 3, 9, 1, 8, 4, 7, 6, 2, 0]
GOLDEN_WINDOW = [13, 12, 8, 9, 14, 17, 16, 15, 4, 19, 18, 5, 10, 3, 11, 2, 6, 7, 1, 0]
