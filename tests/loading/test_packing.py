"""Packing: every sample in one pack, no pack above its budget, hardly any room left, nothing split or split up."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import CorruptShardError, UsageError
from mimicit.loading import Cost, PackedSamples, Samples, load, pack, packing
from mimicit.loading.packing import best_fit
from mimicit.prompt import render
from tests.factories.loading import VirtualStore, small_shards

COSTS = st.lists(st.integers(0, 120), min_size=1, max_size=200)


def packed(costs: list[int], budget: int = 100, **options: object) -> PackedSamples:
    samples = Samples(VirtualStore(len(costs), columns={"frames": costs}), shuffle="full", seed=2)  # type: ignore[arg-type]
    return pack(samples, budget=budget, cost="frames", **options)  # type: ignore[arg-type]


@given(COSTS)
def test_best_fit_packs_everything_within_the_budget(costs: list[int]) -> None:
    packs = best_fit(costs, 100)
    assert sorted(index for pack in packs for index in pack) == list(range(len(costs)))
    assert all(sum(costs[index] for index in pack) <= 100 or len(pack) == 1 for pack in packs)
    small = [pack for pack in packs if 2 * sum(costs[index] for index in pack) <= 100]
    assert len(small) <= 1  # two packs that fit into one would be one


@given(COSTS, st.sampled_from(["full", "window", None]))
def test_every_sample_once_per_epoch(costs: list[int], shuffle: str | None) -> None:
    samples = Samples(VirtualStore(len(costs), columns={"frames": costs}), shuffle=shuffle)  # type: ignore[arg-type]
    packs = pack(samples, budget=100, cost="frames", oversized="alone")
    assert packs.oversized == sum(cost > 100 for cost in costs)
    for epoch in range(4):
        rows = packs.addresses(range(epoch * len(packs), (epoch + 1) * len(packs)))
        assert sorted(row for pack in rows for row in pack) == list(range(len(costs)))
        assert all(sum(costs[row] for row in pack) <= 100 or len(pack) == 1 for pack in rows) and all(rows)


def companions(packs: PackedSamples, epoch: int) -> set[tuple[int, int]]:
    """The pairs of rows of the store that share a pack."""
    rows = packs.addresses(range(epoch * len(packs), (epoch + 1) * len(packs)))
    return {pair for pack in rows for pair in combinations(pack, 2)}


@pytest.mark.parametrize(("count", "budget"), [(150, 1000), (3000, 2048), (300, 16_384)])
def test_companions_are_others_in_every_epoch(count: int, budget: int) -> None:
    lengths = np.random.default_rng(3).lognormal(5, 0.8, count).astype(int).clip(1, budget)
    packs = packed(lengths.tolist(), budget)
    pairs = [companions(packs, epoch) for epoch in range(4)]
    for first, second in combinations(pairs, 2):
        by_chance = len(first) * len(second) / (count * (count - 1) / 2)
        assert len(first & second) < 2 * by_chance + 3 * by_chance**0.5


@pytest.mark.parametrize("shuffle", ["full", "window"])
def test_samples_of_one_picture_share_packs_as_others_do(shuffle: str) -> None:
    """Eight questions about each picture, of much the same length, stand side by side in the shards."""
    pictures, each, budget = 600, 8, 2048
    random = np.random.default_rng(4)
    lengths = (random.lognormal(5, 0.7, pictures).repeat(each) * random.uniform(0.9, 1.1, pictures * each)).astype(int)
    samples = Samples(VirtualStore(len(lengths)), shuffle=shuffle, seed=2)  # type: ignore[arg-type]
    packs = pack(samples, budget=budget, cost=lengths.clip(1, budget))
    pairs = [pair for epoch in range(3) for pair in companions(packs, epoch)]
    of_one = sum(first // each == second // each for first, second in pairs)
    by_chance = len(pairs) * (each - 1) / (len(lengths) - 1)
    assert by_chance > 100 and of_one < 1.3 * by_chance


def test_an_epoch_that_needs_more_packs_is_packed_again_or_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = np.random.default_rng(0).integers(20, 70, 60).tolist()
    packs = packed(costs)
    made, attempts = packing._pack_epoch, []

    def wasteful(order: Any, costs: Any, budget: int, epoch: int, attempt: int) -> Any:
        attempts.append(attempt)
        return made(order, costs, budget if attempt > lucky else 50 + budget // 4, epoch, attempt)

    monkeypatch.setattr(packing, "_pack_epoch", wasteful)
    for epoch, lucky in ((1, 2), (2, 99)):
        attempts.clear()
        found = companions(packs, epoch)
        assert attempts[:4] == [0, 1, 2, 3]
        assert (found == companions(packs, 0)) == (lucky == 99)


def test_packing_reads_no_sample_and_no_earlier_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).integers(20, 600, 50_000)
    monkeypatch.setattr(VirtualStore, "read", None)
    packs = packed(lengths.tolist(), 4096)
    late = packs.addresses([7 * len(packs) + 5])  # epoch 7 without those before it
    assert late == packed(lengths.tolist(), 4096).addresses([7 * len(packs) + 5]) and len(packs._epochs) == 1


@pytest.mark.parametrize(("count", "sigma", "budget"), [(20_000, 0.8, 2048), (20_000, 1.0, 4096), (9_000, 0.8, 16_384)])
def test_log_normal_lengths_fill_99_percent(count: int, sigma: float, budget: int) -> None:
    lengths = np.random.default_rng(0).lognormal(5, sigma, count).astype(int).clip(1, budget)
    packs = packed(lengths.tolist(), budget)
    filled = [sum(lengths[list(rows)]) for rows in packs.addresses(range(len(packs)))]
    assert max(filled) <= budget
    assert packs.fill == pytest.approx(np.mean(filled) / budget)
    assert packs.fill >= 0.99


def test_long_and_short_samples_are_mixed() -> None:
    """Packs of few long samples do not all come first, although the algorithm makes them first."""
    costs = np.random.default_rng(1).lognormal(4, 1, 4000).astype(int).clip(1, 1000).tolist()
    samples = Samples(VirtualStore(len(costs), columns={"frames": costs}))
    sizes = [len(rows) for rows in pack(samples, budget=1000, cost="frames").addresses(range(300))]
    assert abs(np.corrcoef(sizes, np.arange(len(sizes)))[0, 1]) < 0.2


def test_documents_stay_whole_and_apart(tmp_path: Path) -> None:
    folder = small_shards(tmp_path, 30, shard_bytes=25_000)
    samples = load(folder, shuffle="window", seed=1, where={"max_characters": 300})
    packs = pack(samples, budget=700, cost="characters")
    shown = [sample for pack in packs for sample in pack.samples]
    assert Counter(sample.key for sample in shown) == Counter(sample.key for sample in samples)
    by_key = {sample.key: sample for sample in samples}
    assert all(sample == by_key[sample.key] for sample in shown)
    for each in packs:
        assert sum(len(t.instruction) + len(t.answer) for s in each.samples for t in s.triplets) <= 700
        assert each.missing == 0
    assert packs[-1] == packs.get(len(packs) - 1)
    with pytest.raises(IndexError):
        packs[len(packs)]


def test_measured_costs_are_kept_and_computed_once(tmp_path: Path) -> None:
    folder = small_shards(tmp_path, 12)
    measured: list[str] = []

    def measure(sample: object) -> int:
        text = render(sample)  # type: ignore[arg-type]
        measured.append(text)
        return len(text.split())

    first = pack(load(folder), budget=150, cost=Cost(measure, "words"), cache_dir=tmp_path / "cache")
    assert len(measured) == 12
    again = pack(load(folder), budget=150, cost=Cost(measure, "words"), cache_dir=tmp_path / "cache")
    assert len(measured) == 12
    uncached = pack(load(folder), budget=150, cost=Cost(measure, "words"))
    assert list(first) == list(again) == list(uncached)
    assert first.fingerprints == again.fingerprints == uncached.fingerprints
    pack(load(folder, where={"min_media": 1}), budget=150, cost=Cost(measure, "other"), cache_dir=tmp_path / "cache")
    assert len(measured) == 36
    for file in (tmp_path / "cache").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CorruptShardError, match=r"costs-\w+\.npy"):
        pack(load(folder), budget=150, cost=Cost(measure, "words"), cache_dir=tmp_path / "cache")


@pytest.mark.slow  # imports transformers
def test_tokens_of_a_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="comes with the extra 'train'")
    from mimicit.loading import token_cost
    from tests.factories.train import TOKENIZER

    samples = load(small_shards(tmp_path, 8))
    cost = token_cost(TOKENIZER)
    lengths = [len(TOKENIZER(render(sample))["input_ids"]) for sample in samples]
    packs = pack(samples, budget=2 * max(lengths), cost=cost)
    by_id = dict(zip([sample.id for sample in samples], lengths, strict=True))
    assert all(sum(by_id[sample.id] for sample in each.samples) <= 2 * max(lengths) for each in packs)
    assert cost.fingerprint == token_cost(TOKENIZER).fingerprint != token_cost(TOKENIZER, "plain").fingerprint


def test_costs_may_be_given() -> None:
    costs = [30, 70, 50, 20, 99, 1]
    samples = Samples(VirtualStore(len(costs), columns={"frames": costs}), shuffle="full", seed=2)  # type: ignore[arg-type]
    given = pack(samples, budget=100, cost=np.array(costs))
    assert given.fingerprints == packed(costs).fingerprints
    with pytest.raises(UsageError, match="5 costs of 6 samples"):
        pack(samples, budget=100, cost=np.array(costs[:5]))


def test_the_fingerprint_names_packing() -> None:
    costs = list(range(1, 60))
    prints = [packed(costs).fingerprints, packed(costs, 99).fingerprints]
    assert [name for name in prints[0] if prints[0][name] != prints[1][name]] == ["packing"]


def test_wrong_use_is_named() -> None:
    with pytest.raises(UsageError, match=r"2 samples cost more than budget=100, the first is virtual-1 with 101"):
        packed([7, 101, 300])
    with pytest.raises(UsageError, match="negative"):
        packed([7, -1])
    with pytest.raises(UsageError, match="no whole numbers"):
        pack(Samples(VirtualStore(2, columns={"source": ["a", "b"]})), budget=9, cost="source")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="budget=0"):
        packed([1], 0)
    with pytest.raises(UsageError, match="choose 'raise' or 'alone'"):
        packed([1], oversized="drop")
