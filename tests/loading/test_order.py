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


@pytest.mark.parametrize("length", [2**32 + 1, 3 * 2**40 + 17])
def test_window_order_beyond_32_bits(length: int) -> None:
    """Whole windows of positions are windows of blocks: as many samples, none twice, in range."""
    order = Order(length=length, shuffle="window", seed=5)
    last = np.arange(length - 40_000, length)  # the short window and the tail of the blocks
    shown = order.at(np.concatenate([np.arange(40_000), last, length + last]))
    assert shown.min() >= 0 and shown.max() < length
    assert np.unique(shown[:80_000]).size == 80_000
    assert np.unique(shown[80_000:]).size == 40_000


@pytest.mark.parametrize("length", range(2, 9))
def test_small_permutations_are_unbiased(length: int) -> None:
    """Every value goes to every place equally often: chi-squared of its table over 1,000 keys stays near its mean."""
    table = np.zeros((length, length))
    for key in range(1000):
        table[np.arange(length), permute(np.arange(length), length, key)] += 1
    expected = 1000 / length
    freedom = (length - 1) ** 2
    assert ((table - expected) ** 2 / expected).sum() < freedom + 7 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(("length", "per_shard"), [(500_000, 5_000), (1_000_000, 1_000), (30_000, 300)])
def test_window_order_mixes_shards_nearly_as_well_as_chance(length: int, per_shard: int) -> None:
    """Distinct shards in a batch of 64: within 10% of 64 independent draws."""
    shards = length // per_shard
    ideal = shards * (1 - (1 - 1 / shards) ** 64)
    shown = Order(length=length, shuffle="window", seed=1).at(np.arange(length // 64 * 64)) // per_shard
    batches = np.sort(shown.reshape(-1, 64), axis=1)
    distinct = 1 + (np.diff(batches, axis=1) > 0).sum(axis=1)
    assert distinct.mean() > 0.9 * ideal


def test_window_order_keeps_reads_near_one_another() -> None:
    """The samples of a window lie in runs of whole blocks, so what is read ahead is used."""
    shown = np.sort(Order(length=1_000_000, shuffle="window").at(np.arange(505 * 32)))  # the first of 62 windows
    runs = np.split(shown, np.flatnonzero(np.diff(shown) > 1) + 1)
    assert len(runs) <= 506  # one block may lie across the end of the folder
    assert sorted({len(run) % 32 for run in runs if run[0] != 0 and run[-1] != 999_999}) == [0]


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = [Order(length=1000, seed=seed).at(np.arange(2000)).reshape(2, 1000) for seed in range(2)]
    rows = [tuple(row) for order in orders for row in order]
    assert len(set(rows)) == 4


def test_the_order_is_pinned() -> None:
    """A change here is labelled ITERATION ORDER in the changelog."""
    assert Order(length=10, seed=0).at(list(range(10))).tolist() == GOLDEN_FULL
    window = Order(length=20, seed=0, shuffle="window", block=2, window=2)
    assert window.at(list(range(20))).tolist() == GOLDEN_WINDOW


@pytest.mark.parametrize("shuffle", ["full", "window", None])
def test_no_positions_give_no_indices(shuffle: str | None) -> None:
    assert Order(length=5, shuffle=shuffle).at([]).shape == (0,)  # type: ignore[arg-type]


def test_wrong_use_is_named() -> None:
    with pytest.raises(UsageError, match="no sample"):
        Order(length=0)
    with pytest.raises(UsageError, match="start at 0"):
        Order(length=3).at([-1])


GOLDEN_FULL = [0, 1, 5, 6, 2, 9, 7, 3, 4, 8]
GOLDEN_WINDOW = [8, 9, 4, 5, 0, 2, 3, 1, 6, 7, 15, 14, 11, 10, 18, 19, 17, 13, 16, 12]
