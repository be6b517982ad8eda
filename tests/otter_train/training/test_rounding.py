"""Rounding by chance: right on average, exact where it can be, and a run with it learns, resumes and is guarded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import AdamW

from mimicit.errors import UsageError
from otter_train.checkpoint.files import load_optimizer_state, load_weights, open_checkpoint
from otter_train.config.run_config import RunOptions, resolve
from otter_train.inference.answering import load_trained_model
from otter_train.model import PRESETS
from otter_train.reporting.metrics import Console
from otter_train.training.loop import Outcome, train
from otter_train.training.optimizer import RoundingAdamW, round_by_chance
from tests.factories.pretrained import SMALL_PERCEIVER, pretrained_folders
from tests.factories.ranks import on_ranks
from tests.factories.train import MINUTE_MODEL, Colours


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {**pretrained_folders(tmp_path_factory.mktemp("pretrained")), **SMALL_PERCEIVER}


@given(st.floats(width=32), st.integers(0, 99))
def test_the_result_is_a_neighbour_or_the_value_itself(value: float, seed: int) -> None:
    torch.manual_seed(seed)
    exact = torch.full((64,), value, dtype=torch.float32)
    rounded = round_by_chance(exact)
    nearest = exact.bfloat16()
    assert rounded.dtype == torch.bfloat16
    if not exact[0].isfinite() or torch.equal(nearest.float(), exact):
        assert torch.equal(rounded.view(torch.int16), nearest.view(torch.int16))
        return
    places = rounded.view(torch.int16).int()
    below = (exact.view(torch.int32) >> 16).int()  # towards zero
    assert ((places - below == 0) | (places - below == 1)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_is_the_value(sign: int) -> None:
    torch.manual_seed(0)
    for share in (0.01, 0.3, 0.5, 0.97):
        value = sign * (1 + share / 128)
        rounded = round_by_chance(torch.full((200_000,), value)).double()
        assert rounded.mean().item() == pytest.approx(value, abs=4 * rounded.std().item() / 200_000**0.5)
        assert rounded.unique().numel() == 2


def moved(optimizer: type[AdamW], steps: int = 20) -> Tensor:
    """How far ones move against a gradient that is always the same, at a rate far below the precision of bfloat16."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.ones(50_000, dtype=torch.bfloat16))
    optimiser = optimizer([weight], lr=1e-4, weight_decay=0.0, fused=True)
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimiser.step()
    return (weight.detach().double() - 1).mean()


def test_updates_that_bfloat16_would_lose_come_through_on_average() -> None:
    assert moved(AdamW).item() == 0
    assert moved(RoundingAdamW).item() == pytest.approx(-20 * 1e-4, rel=0.03)


def test_a_step_is_that_of_adamw_before_it_is_rounded() -> None:
    torch.manual_seed(0)
    start = torch.randn(400).bfloat16()
    rounding, exact = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.float())
    pair = RoundingAdamW([rounding], lr=0.1, weight_decay=0.2), AdamW([exact], lr=0.1, weight_decay=0.2, fused=True)
    gradient = torch.randn(400).bfloat16()
    rounding.grad, exact.grad = gradient, gradient.float()
    for optimizer in pair:
        optimizer.step()
    spacing = exact.detach().abs().log2().floor().exp2() / 128
    assert ((rounding.detach().float() - exact.detach()).abs() <= spacing).all()
    for moment in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(pair[0].state[rounding][moment], pair[1].state[exact][moment])


def test_a_step_that_the_guard_leaves_out_changes_nothing() -> None:
    weight = torch.nn.Parameter(torch.randn(64).bfloat16())
    optimizer = RoundingAdamW([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    before = weight.detach().clone(), {name: value.clone() for name, value in optimizer.state[weight].items()}
    weight.grad = torch.full_like(weight, float("nan"))
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(weight, before[0])
    assert all(torch.equal(value, before[1][name]) for name, value in optimizer.state[weight].items())


def run(folder: Path, *, stop_after: int | None = None, **recipe: Any) -> Outcome:
    steps = iter(range(1, 1_000_000))
    recipe = {"batch_size": 4, "epochs": 100, "max_steps": 12, "lr": 3e-3, "precision": "bfloat16", **recipe}
    return train(
        resolve(None, **recipe),
        Colours(),
        folder,
        options=RunOptions(save_every=0, log_every=1, device="cpu"),
        console=Console(io.StringIO()),
        should_stop=lambda: next(steps) == stop_after,
    )


def test_a_run_learns_as_with_float32_weights_and_is_resumed_exactly(tmp_path: Path, folders: dict[str, Any]) -> None:
    whole = run(tmp_path / "whole", **folders, stochastic_rounding=True)
    assert [row.loss for row in whole.rows] == pytest.approx(
        [row.loss for row in run(tmp_path / "f", **folders).rows], rel=0.1
    )
    run(tmp_path / "parts", **folders, stochastic_rounding=True, stop_after=5)
    torch.manual_seed(99)
    resumed = run(tmp_path / "parts", **folders, stochastic_rounding=True)
    assert [row.loss for row in resumed.rows] == [row.loss for row in whole.rows]
    first, second = open_checkpoint(tmp_path / "whole"), open_checkpoint(tmp_path / "parts")
    weights, others = load_weights(first), load_weights(second)
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    trained = load_optimizer_state(first)
    assert {weights[name].dtype for name in trained} == {torch.bfloat16}
    for name, parts in load_optimizer_state(second).items():
        assert {value.dtype for value in parts.values()} == {torch.float32}
        assert all(torch.equal(value, trained[name][part]) for part, value in parts.items())
    loaded = load_trained_model(tmp_path / "whole", device="cpu").model.state_dict()
    assert all(torch.equal(loaded[name].float(), value.float()) for name, value in weights.items())


@pytest.mark.parametrize("embeddings", ["input_only", "new_rows"])
def test_every_kind_of_embeddings_can_be_rounded(tmp_path: Path, folders: dict[str, Any], embeddings: str) -> None:
    assert run(tmp_path, max_steps=2, **folders, stochastic_rounding=True, embeddings=embeddings).finished


def _one_of_two(rank: int, folders: dict[str, Any], folder: Path, steps: int) -> None:
    run(folder, max_steps=6, **folders, stochastic_rounding=True, stop_after=steps)


def weights_of(run: Path) -> Tensor:
    """All trained weights in one row."""
    return torch.cat([value.flatten().double() for _, value in sorted(load_weights(open_checkpoint(run)).items())])


def test_processes_share_it_and_one_goes_on(tmp_path: Path, folders: dict[str, Any]) -> None:
    on_ranks(2, _one_of_two, folders, tmp_path / "two", 3)
    together = run(tmp_path / "two", max_steps=6, **folders, stochastic_rounding=True)
    alone = run(tmp_path / "one", max_steps=6, **folders, stochastic_rounding=True)
    assert [row.loss for row in together.rows] == pytest.approx([row.loss for row in alone.rows], rel=0.05)
    run(tmp_path / "begun", max_steps=6, **folders, stochastic_rounding=True, stop_after=1)
    begun, two, one = (weights_of(tmp_path / name) for name in ("begun", "two", "one"))
    cosine = torch.nn.functional.cosine_similarity(two - begun, one - begun, dim=0)
    assert cosine > 0.8  # other noise, the same way


@pytest.mark.parametrize("stochastic_rounding", [False, True])
def test_a_model_from_scratch_learns_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stochastic_rounding: bool
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", MINUTE_MODEL)
    outcome = run(tmp_path, max_steps=25, stochastic_rounding=stochastic_rounding)
    assert outcome.rows[-1].loss < 0.8 * outcome.rows[0].loss


def test_without_bfloat16_it_is_refused(tmp_path: Path, folders: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--precision bfloat16"):
        run(tmp_path, **folders, stochastic_rounding=True, precision="float32")
