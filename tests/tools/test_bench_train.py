"""The benchmark of training compares like with like: every way computes the same losses and counts the same work."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch

import mimicit
from otter_train.data.micro_batches import Group, GroupCollator
from otter_train.training.flops import Work
from tests.factories.train import MINUTE_MODEL
from tools import bench_feed, train_peers
from tools.bench_train import difference, plot, shares, table
from tools.train_peers import CASES, Case, Size

STEPS = 3
SAME = [name for name, case in CASES.items() if not case.published and case.labelled_only and not case.budget]


@pytest.fixture(autouse=True)
def minute_size(monkeypatch: pytest.MonkeyPatch) -> None:
    size = Size(model=replace(MINUTE_MODEL, cross_attention_gate=0.5), vocabulary=600, tokens=96, learning_rate=1e-3)
    monkeypatch.setitem(train_peers.SIZES, "cpu", size)
    monkeypatch.setattr(train_peers, "matmul_flops_per_s", lambda device, dtype: 1e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@functools.cache
def ours_once() -> dict[str, Any]:
    """What all others are compared with."""
    return train_peers.run("ours", "cpu", STEPS)


@pytest.mark.parametrize(
    "name", [name for name in SAME if not CASES[name].compiled and not CASES[name].rounded and name != "ours"]
)
def test_without_an_optimisation_the_losses_are_the_same(name: str) -> None:
    ours, other = ours_once(), train_peers.run(name, "cpu", STEPS)
    assert other["losses"] == pytest.approx(ours["losses"], abs=1e-4)
    assert other["tokens"] == ours["tokens"]
    if CASES[name].shared_pictures:
        assert other["flops"] == pytest.approx(ours["flops"])


def test_weights_rounded_by_chance_learn_in_bfloat16() -> None:
    case, size = Case(rounded=True), train_peers.SIZES["cpu"]
    (batch, *_), special = train_peers.batches_of(case, size, 1)
    step = train_peers.our_step(
        case, size, train_peers.build(size, special, torch.bfloat16), torch.device("cpu"), "bfloat16"
    )
    losses = [step(batch).item() for _ in range(8)]
    assert losses[-1] < losses[0]


def test_the_batches_of_the_published_recipe_hold_the_same_pictures_and_tokens() -> None:
    size = train_peers.SIZES["cpu"]
    for padded, ours in zip(
        *(train_peers.batches_of(case, size, 3)[0] for case in (Case(published=True), Case())), strict=True
    ):
        assert padded.vision_x.shape[:2] == (4, 5) and padded.lang_x.shape == (4, size.tokens)  # type: ignore[union-attr]
        work, expected = Work.of(padded), Work.of(ours)
        assert (work.tokens, work.pictures) == (expected.tokens, expected.pictures)
        flat = padded.vision_x.flatten(0, 2)
        mask = padded.vision_mask.flatten()  # type: ignore[union-attr]
        assert torch.equal(flat[padded.firsts.flatten()][mask], flat[mask])  # type: ignore[union-attr]


def results() -> dict[str, list[dict[str, Any]]]:
    run = {"ceiling": 1e9, "memory": 10**9, "tokens": [100, 100], "flops": [1e8, 1e8], "seconds": [1.0, 1.0]}
    return {
        "published": [{**run, "losses": [2.0, 1.0], "seconds": [2.0, 2.0]}],
        "ours": [{**run, "losses": [2.0, 1.01]}],
        "ours, AdamW not fused": [{**run, "losses": [2.0, 1.0], "seconds": [1.5, 1.5]}],
    }


def test_tables_say_rates_and_shares() -> None:
    assert "| ours | 100 | 2.00 | 10% | 1.0 GB |" in table(results())
    assert "| AdamW not fused | 1.50 times as long |" in shares(results())
    assert difference(results()) == pytest.approx(0.01)


def test_the_plot_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    losses = {side: results()[side][0]["losses"] for side in ("ours", "published")}
    for name in ("a.svg", "b.svg"):
        plot(losses, tmp_path / name)
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes() and b"published" in first


def test_waiting_for_data_is_measured_on_real_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = train_peers.SIZES["cpu"]
    shards = bench_feed.build_shards(tmp_path, size, 12)
    made = [*train_peers.samples_of(12, size)]
    for sample, found in zip(made, mimicit.load(shards), strict=True):
        assert [one.answer for one in found.triplets] == [one.answer for one in sample.triplets]
        assert len(found.media) == len({medium.data for medium in sample.media})
    waited, whole = bench_feed.feed(shards, size, 0, STEPS)
    assert len(waited) == len(whole) == STEPS and all(0 < wait < all_ for wait, all_ in zip(waited, whole, strict=True))
    collate = GroupCollator.__call__

    def slow(self: GroupCollator, slots: Any) -> Group:
        time.sleep(0.2)
        return collate(self, slots)

    monkeypatch.setattr(GroupCollator, "__call__", slow)
    assert all(wait > 0.2 for wait in bench_feed.feed(shards, size, 0, STEPS)[0])
    assert bench_feed.line(8, [0.1, 0.2], [1.0, 2.0]) == "| 8 | 1.500 s | 10.00% | 0.200 s |"
