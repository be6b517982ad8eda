"""Mixtures: exact quotas at the end of every window, each part in its own order, any position without those before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.errors import UsageError
from mimicit.loading import Mixture, Samples, load, load_mixture
from mimicit.loading.mixture import PERIOD, Quotas, whole_units
from tests.factories.loading import VirtualStore, small_shards

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=8)


def part(count: int, name: str, shuffle: str | None = "full") -> Samples:
    return Samples(VirtualStore(count, name), shuffle=shuffle, seed=3)  # type: ignore[arg-type]


def mixture(weights: list[float], window: int = 64, shuffle: str | None = "full") -> Mixture:
    parts = [part(10 + 7 * number, f"part{number}", shuffle) for number in range(len(weights))]
    return Mixture(parts, weights, seed=1, window=window)


@given(WEIGHTS, st.integers(1, 400))
def test_quotas_hold_at_the_end_of_every_window(weights: list[float], window: int) -> None:
    try:
        units = whole_units(weights, window)
    except UsageError:
        assert min(weights) / sum(weights) * PERIOD * window < 1
        return
    quotas = Quotas(units, window)
    ends = range(0, 2 * PERIOD, 7)
    counts = np.array([quotas.before(end) for end in ends])
    exact = np.array(ends)[:, None] * window * (np.array(units) / sum(units))
    assert np.abs(counts - exact).max() < 1
    assert (np.abs(np.array(units) / sum(units) - np.array(weights) / sum(weights)) < 1 / (PERIOD * window)).all()
    assert (counts.sum(axis=1) == np.array(ends) * window).all()
    assert min(quotas.within(end).min() for end in ends) >= 0


@settings(max_examples=15)
@given(WEIGHTS, st.integers(0, 10**9))
def test_any_slice_equals_the_whole(weights: list[float], first: int) -> None:
    mixed = mixture(weights)
    numbers, places = mixed.places(range(first, first + 200))
    for offset in (0, 63, 150):
        assert [array[0] for array in mixed.places([first + offset])] == [numbers[offset], places[offset]]
    for number in range(len(weights)):  # each part goes on where it was, one after the other
        own = places[numbers == number]
        assert np.array_equal(own, np.arange(own[0], own[0] + own.size) if own.size else own)


def test_quotas_are_what_is_really_shown() -> None:
    weights, window = [3.0, 1.0, 0.5], 50
    mixed = mixture(weights, window)
    numbers, _ = mixed.places(range(40 * window))
    for end in range(1, 41):
        shown = np.bincount(numbers[: end * window], minlength=3)
        assert np.abs(shown - end * window * np.array(weights) / 4.5).max() < 1
    rows = mixed.addresses(range(40 * window))
    for number, each in enumerate(mixed.parts):  # every sample once per epoch of its own folder
        own = [row for index, row in rows if index == number]
        for epoch in range(len(own) // len(each)):
            assert sorted(own[epoch * len(each) : (epoch + 1) * len(each)]) == list(range(len(each)))
        assert own == each.addresses(range(len(own)))


def test_parts_are_spread_over_the_window() -> None:
    numbers, _ = mixture([1.0, 1.0], window=1024).places(range(1024))
    assert 400 < np.count_nonzero(np.diff(numbers)) < 620  # runs as short as those of a coin


def test_weights_change_from_the_next_window_on() -> None:
    before = mixture([1.0, 1.0], window=10)
    after = before.reweighted([9.0, 1.0], position=25)
    assert after.changes[0][0] == 3
    old, new = before.places(range(1000)), after.places(range(1000))
    assert all(np.array_equal(a[:30], b[:30]) for a, b in zip(old, new, strict=True))
    assert np.abs(np.bincount(new[0][30:]) - [873, 97]).max() <= 1
    for number in range(2):  # nothing is skipped or repeated at the change
        own = new[1][new[0] == number]
        assert np.array_equal(own, np.arange(own.size))
    again = before.with_changes(after.changes)
    assert again.addresses(range(200)) == after.addresses(range(200))
    assert after.fingerprints == before.fingerprints
    twice = after.reweighted([1.0, 1.0], position=500).reweighted([1.0, 3.0], position=500)
    assert [start for start, _ in twice.changes] == [3, 50]


def test_real_folders(tmp_path: Path) -> None:
    first = small_shards(tmp_path / "a", 12, name="a")
    second = small_shards(tmp_path / "b", 5, name="b")
    mixed = load_mixture([(first, 2), (second, 1)], shuffle="full", seed=4, window=6)
    shown = [mixed.get(position) for position in range(18)]
    assert [sum(sample.source == "a" for sample in shown[n : n + 6]) for n in (0, 6, 12)] == [4, 4, 4]
    own = load(first, shuffle="full", seed=4)
    assert [sample for sample in shown if sample.source == "a"] == list(own)
    assert len(mixed) == 17
    other = load_mixture([(first, 2), (second, 2)], shuffle="full", seed=4, window=6)
    assert [name for name in mixed.fingerprints if mixed.fingerprints[name] != other.fingerprints[name]] == ["mixture"]


def test_wrong_use_is_named() -> None:
    with pytest.raises(UsageError, match="positive"):
        mixture([1.0, 0.0])
    with pytest.raises(UsageError, match="less than one in 65,536"):
        mixture([1.0, 1e-9])
    with pytest.raises(UsageError, match="give each part a weight"):
        Mixture([part(3, "a")], [1.0, 2.0])
    with pytest.raises(UsageError, match="start at 0"):
        mixture([1.0]).places([-1])
