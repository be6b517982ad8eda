"""Killed without warning, a run goes on as if nothing had been: weights, moments, schedule, generators, data."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import orjson
import torch

import otter_train.training.step
from mimicit.errors import UsageError
from mimicit.loading import Samples, load
from otter_train.checkpoint.files import (
    Checkpoint,
    latest_checkpoint,
    load_optimizer_state,
    load_weights,
    save_checkpoint,
)
from otter_train.config.run_config import RunOptions, resolve
from otter_train.model import PRESETS
from otter_train.reporting.metrics import Console, Row, read_table
from otter_train.training.loop import Outcome, train
from otter_train.training.replay import replay
from tests.factories.loading import small_shards
from tests.factories.pretrained import SMALL_PERCEIVER, pretrained_folders
from tests.factories.runs import meta
from tests.factories.train import MINUTE_MODEL, TOKENIZER

STEPS = 20
TABLES = ("sources.csv", "gates.csv")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 samples in several shards: batches of 4 straddle shards and epochs."""
    folder = small_shards(tmp_path_factory.mktemp("resume"), 13, shard_bytes=25_000)
    assert len(load(folder).manifest["shards"]) > 2
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {**pretrained_folders(tmp_path_factory.mktemp("pretrained")), **SMALL_PERCEIVER}


@pytest.fixture(autouse=True)
def minute_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", MINUTE_MODEL)


def run(
    samples: Samples,
    folder: Path,
    *,
    workers: int = 0,
    save_every: int = 0,
    options: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> Outcome:
    preset = None if "language_model" in recipe else "tiny"
    config = resolve(preset, **{"batch_size": 4, "epochs": 100, "max_steps": STEPS, "lr": 3e-3, **recipe})
    how = RunOptions(workers=workers, accumulate=2, save_every=save_every, log_every=1, device="cpu", **(options or {}))
    return train(config, samples, folder, options=how, console=Console(io.StringIO()))


def in_a_process(work: Callable[[], object]) -> int | None:
    """The exit code of ``work`` in a fork of this process; negative: the signal that ended it."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(120)
    return process.exitcode


def die_in_forward_pass(number: int) -> None:
    """Let this process be killed at the beginning of its forward pass ``number`` (from 1)."""
    passes = iter(range(1, 10_000))
    compute = otter_train.training.step.batch_loss

    def dying(*given: Any) -> Any:
        if next(passes) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(*given)

    otter_train.training.step.batch_loss = dying


def same(first: Checkpoint, second: Checkpoint) -> None:
    """Every number of the two checkpoints is equal."""
    ours, theirs = load_weights(first), load_weights(second)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    moments, others = load_optimizer_state(first), load_optimizer_state(second)
    assert moments.keys() == others.keys() and moments
    for name, parts in moments.items():
        assert parts.keys() == others[name].keys() == {"exp_avg", "exp_avg_sq", "step"}
        assert all(torch.equal(parts[part], others[name][part]) for part in parts)
    for key in ("step", "samples_seen", "loader", "guard", "rng", "config", "total_steps"):
        assert first.meta[key] == second.meta[key], key


def checkpoint_of(folder: Path) -> Checkpoint:
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    return checkpoint


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_twenty_steps_are_ten_and_a_kill_and_the_rest(shards: Path, tmp_path: Path, workers: int) -> None:
    samples = load(shards, shuffle="full", seed=1)

    def killed() -> None:
        die_in_forward_pass(2 * 13 + 2)  # step 14, behind its first micro-batch
        run(samples, tmp_path / "parts", workers=workers, save_every=10)

    assert in_a_process(killed) == -signal.SIGKILL
    assert checkpoint_of(tmp_path / "parts").step == 10
    logged = [row.step for row in read_table(Row, tmp_path / "parts" / "metrics.csv")]
    assert logged == list(range(1, 14))
    random.seed(99)  # whatever else this process does in between
    torch.manual_seed(99)
    run(samples, tmp_path / "parts", workers=workers)
    run(samples, tmp_path / "whole")
    same(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "parts"))
    rows = [read_table(Row, tmp_path / name / "metrics.csv") for name in ("whole", "parts")]
    for name in ("step", "loss", "lr", "gradient_norm", "samples"):
        assert [getattr(row, name) for row in rows[0]] == [getattr(row, name) for row in rows[1]]
    for table in TABLES:
        assert (tmp_path / "whole" / table).read_bytes() == (tmp_path / "parts" / table).read_bytes()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
@pytest.mark.parametrize("way", ["rows", "vision-cache", pytest.param("compile", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_in_every_way_of_training(
    shards: Path, pretrained: dict[str, Any], tmp_path: Path, way: str
) -> None:
    samples = load(shards, shuffle="full", seed=1)
    recipe: dict[str, Any] = {"rows": {"batch_size": 2, "batch_tokens": 600}, "vision-cache": pretrained}.get(way, {})
    options = {"vision-cache": {"vision_cache": tmp_path / "cache"}, "compile": {"compile": True}}.get(way, {})

    def killed() -> None:
        die_in_forward_pass(2 * 13 + 2)
        run(samples, tmp_path / "parts", save_every=10, options=options, **recipe)

    assert in_a_process(killed) == -signal.SIGKILL
    assert checkpoint_of(tmp_path / "parts").step == 10
    torch.manual_seed(99)
    run(samples, tmp_path / "parts", options=options, **recipe)
    cached = way == "vision-cache"
    assert cached == any((tmp_path / "cache").rglob("*.safetensors"))
    run(samples, tmp_path / "whole", options={} if cached else options, **recipe)  # a cache changes no bit
    same(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "parts"))
    rows = [read_table(Row, tmp_path / name / "metrics.csv") for name in ("whole", "parts")]
    assert [row.loss for row in rows[0]] == [row.loss for row in rows[1]]
    assert [row.samples for row in rows[0]] == [row.samples for row in rows[1]]
    assert rows[0][-1].samples == checkpoint_of(tmp_path / "parts").meta["samples_seen"]
    assert (rows[0][-1].samples > 2 * STEPS) if way == "rows" else (rows[0][-1].samples == 4 * STEPS)


def test_a_step_is_replayed_from_kept_tokens(shards: Path, pretrained: dict[str, Any], tmp_path: Path) -> None:
    samples = load(shards, shuffle="full", seed=1)
    recipe: dict[str, Any] = {"batch_size": 4, "epochs": 100, "max_steps": 6, **pretrained}
    options: dict[str, Any] = {"vision_cache": tmp_path / "cache"}
    run(samples, tmp_path / "run", save_every=4, options=options, **recipe)
    config = resolve(None, **{"lr": 3e-3, **recipe})
    how = RunOptions(workers=0, accumulate=2, device="cpu", **options)
    again = replay(config, samples, tmp_path / "run", 6, options=how, console=Console(io.StringIO()))
    mean = sum(one.loss * one.labelled for one in again) / sum(one.labelled for one in again)
    assert mean == pytest.approx(read_table(Row, tmp_path / "run" / "metrics.csv")[5].loss, rel=1e-5)


def test_other_shards_or_another_order_are_refused_by_name(shards: Path, tmp_path: Path) -> None:
    run(load(shards, shuffle="full"), tmp_path / "run", max_steps=1)
    for other, named in (
        (load(small_shards(tmp_path / "other", 13), shuffle="full"), "another content"),
        (load(shards, shuffle="full", seed=9), "another order"),
        (load(shards, shuffle="full", where={"max_characters": 200}), "another filter"),
    ):
        with pytest.raises(UsageError, match=f"run was begun with other shards.*{named}"):
            run(other, tmp_path / "run", max_steps=1)


def write_checkpoints(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    for step in range(1, 10_000):
        filled = {name: torch.full_like(tensor, step) for name, tensor in weights.items()}
        moments = {name: {"exp_avg": tensor} for name, tensor in filled.items()}
        save_checkpoint(folder, meta=meta(step), weights=filled, optimizer_state=moments, tokenizer=TOKENIZER)


@pytest.mark.slow
def test_a_kill_at_any_moment_of_writing_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    weights = {f"part.{number}": torch.zeros(50_000) for number in range(4)}
    generator = random.Random(0)
    in_the_middle = 0
    for round in range(30):
        folder = tmp_path / f"{round}"
        process = multiprocessing.get_context("fork").Process(target=write_checkpoints, args=(folder, weights))
        process.start()
        while not (folder / "checkpoint-00000001").exists():
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.15))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        in_the_middle += any(folder.glob(".checkpoint-*"))
        checkpoint = checkpoint_of(folder)  # compares every file with its checksum
        last = max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
        assert checkpoint.step == last == orjson.loads((checkpoint.folder / "meta.json").read_bytes())["step"]
        assert all((tensor == last).all() for tensor in load_weights(checkpoint).values())
    assert in_the_middle > 10  # or the kills came at moments of no interest
