"""Two processes are one: the same losses, each sample once, whoever resumes; and nobody waits for ever."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
import torch.distributed as dist

import otter_train.training.loop
from mimicit.loading import load
from otter_train.checkpoint.files import latest_checkpoint, load_optimizer_state, load_weights
from otter_train.config.run_config import RunOptions, resolve
from otter_train.data.micro_batches import Group
from otter_train.distributed import join_world, like, pick_device, shard, whole
from otter_train.model import PRESETS, freeze, trainable_parameters
from otter_train.reporting.metrics import Console, EvalRow, Row, SourceRow, read_table
from otter_train.training.loop import train
from otter_train.training.optimizer import make_optimizer
from otter_train.training.session import Session, begin
from otter_train.training.step import StepResult, take_step
from tests.factories.loading import small_shards
from tests.factories.otter import LANGUAGES
from tests.factories.pretrained import SMALL_PERCEIVER, pretrained_folders
from tests.factories.ranks import on_ranks
from tests.factories.steps import CPU, SAMPLES, batch, model
from tests.factories.train import MINUTE_MODEL, Colours

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")


@pytest.fixture(autouse=True)
def minute_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", MINUTE_MODEL)


def run(rank: int, folder: Path, stop_after: int | None = None, options: dict[str, Any] | None = None) -> None:
    """Three epochs of 7 samples in batches of 4, of two micro-batches; the last step leaves one rank with nothing."""
    usual = {"accumulate": 2, "save_every": 0, "log_every": 1, "device": "cpu", "eval_every": 4}
    steps = iter(range(1, 1000))
    kept = otter_train.training.loop.run_step

    def noting(session: Session, step: int, group: Group) -> StepResult:
        with open(folder.parent / f"{folder.name}-{rank}.jsonl", "a") as file:
            file.write(json.dumps([step, [id for one in group if one is not None for id in one.ids]]) + "\n")
        return kept(session, step, group)

    otter_train.training.loop.run_step = noting
    try:
        train(
            resolve("tiny", batch_size=4, epochs=3, lr=3e-3, warmup=0.1),
            Colours(count=7),
            folder,
            options=RunOptions(**{**usual, **(options or {})}),
            console=Console(io.StringIO()),
            held_out=Colours(count=3, seed=5),
            should_stop=lambda: next(steps) == stop_after,
        )
    finally:
        otter_train.training.loop.run_step = kept


def seen(folder: Path) -> dict[int, list[str]]:
    """The samples of every step, over all ranks."""
    steps: dict[int, list[str]] = {}
    for path in sorted(folder.parent.glob(f"{folder.name}-?.jsonl")):
        for line in path.read_text().splitlines():
            step, ids = json.loads(line)
            steps.setdefault(step, []).extend(ids)
    return {step: sorted(ids) for step, ids in sorted(steps.items())}


def numbers(folder: Path) -> list[tuple[int, float, float]]:
    return [(row.samples, row.loss, row.gradient_norm) for row in read_table(Row, folder / "metrics.csv")]


def assert_equal(folder: Path, truth: Path) -> None:
    assert seen(folder) == seen(truth)
    ours, theirs = numbers(folder), numbers(truth)
    assert len(ours) == len(theirs) == 6
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
    held_out = [[row.loss for row in read_table(EvalRow, one / "eval.csv")] for one in (folder, truth)]
    assert held_out[0] == pytest.approx(held_out[1], abs=1e-5)
    sources = [read_table(SourceRow, one / "sources.csv") for one in (folder, truth)]
    assert [(row.source, row.samples, row.labelled) for row in sources[0]] == [
        (row.source, row.samples, row.labelled) for row in sources[1]
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", MINUTE_MODEL)
        run(0, folder, None, {"eval_shards": Path("named")})
    return folder


@pytest.mark.parametrize("options", [{}, {"shard_frozen": True, "workers": 1}])
def test_two_processes_are_one(tmp_path: Path, alone: Path, options: dict[str, Any]) -> None:
    folder = tmp_path / "two"
    on_ranks(2, run, folder, None, {"eval_shards": Path("named"), **options})
    assert_equal(folder, alone)
    shown = Counter(id for ids in seen(folder).values() for id in ids)
    assert shown == {f"sample-{row}": 3 for row in range(7)}  # each once per epoch
    first, second = latest_checkpoint(folder), latest_checkpoint(alone)
    assert first is not None and second is not None and len(first.meta["rng"]) == 2
    ours, theirs = load_weights(first), load_weights(second)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)
    assert load_optimizer_state(first).keys() == load_optimizer_state(second).keys()


def test_two_then_one_then_two_go_on_as_if_nothing_had_been(tmp_path: Path, alone: Path) -> None:
    folder, options = tmp_path / "changing", {"eval_shards": Path("named")}
    on_ranks(2, run, folder, 2, options)
    run(0, folder, 2, options)
    assert len(numbers(folder)) == 4
    on_ranks(2, run, folder, None, options)
    assert_equal(folder, alone)


def _step_of_frozen(rank: int, place: Path) -> None:
    world = join_world(pick_device("cpu"))
    for frozen in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            trained = model()
            freeze(trained, "new_rows")
            for parameter in trained.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
            shard(trained, world, CPU, frozen=frozen)
            kinds = {name: hasattr(value, "full_tensor") for name, value in trained.named_parameters()}
            needs = dict(trainable_parameters(trained))
            assert all(is_sharded == (frozen or name in needs) for name, is_sharded in kinds.items())
            optimizer = make_optimizer(trained, lr=1e-2, weight_decay=0.1)
            group = (batch(*SAMPLES[:3]),) if rank == 0 else (None,)
            precision = "float32" if dtype == torch.float32 else "bfloat16"
            take_step(trained, optimizer, group, device=CPU, world=world, clip=1.0, precision=precision)  # type: ignore[arg-type]
            after = {name: whole(value.detach()) for name, value in trained.named_parameters()}
            if rank == 0:
                torch.save(after, place / f"{frozen}-{precision}.pt")
            gate = trained.language.blocks[0].attn_gate  # one number on two ranks
            assert torch.equal(whole(like(torch.tensor([3.0]), gate.detach())), torch.tensor([3.0]))


def test_frozen_weights_may_be_sharded_too(tmp_path: Path) -> None:
    on_ranks(2, _step_of_frozen, tmp_path)
    for precision in ("float32", "bfloat16"):
        replicated, sharded = (torch.load(tmp_path / f"{frozen}-{precision}.pt") for frozen in (False, True))
        for name, value in replicated.items():
            torch.testing.assert_close(sharded[name], value, rtol=0, atol=1e-6)


def _rows(rank: int, shards: Path, folder: Path, stop_after: int | None = None) -> None:
    """Two epochs of rows of a token budget, two rows a step."""
    steps = iter(range(1, 1000))
    train(
        resolve("tiny", batch_size=2, batch_tokens=600, epochs=2, lr=3e-3),
        load(shards, shuffle="full", seed=1),
        folder,
        options=RunOptions(save_every=0, log_every=1, device="cpu"),
        console=Console(io.StringIO()),
        should_stop=lambda: next(steps) == stop_after,
    )


def test_rows_of_a_budget_are_shared_by_two_then_one_then_two(tmp_path: Path) -> None:
    shards = small_shards(tmp_path, 40)
    _rows(0, shards, tmp_path / "alone")
    on_ranks(2, _rows, shards, tmp_path / "changing", 2)
    _rows(0, shards, tmp_path / "changing", 2)
    on_ranks(2, _rows, shards, tmp_path / "changing")
    ours, theirs = numbers(tmp_path / "changing"), numbers(tmp_path / "alone")
    assert len(ours) == len(theirs) > 5 and theirs[-1][0] == 2 * 40
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(other))  # the tolerance of float32, as sums differ
    checkpoints = [latest_checkpoint(tmp_path / name) for name in ("changing", "alone")]
    assert [one.meta["samples_seen"] for one in checkpoints if one is not None] == [80, 80]


SHARDED = RunOptions(shard_frozen=True, workers=0, device="cpu")


BEGINNINGS: dict[str, dict[str, Any]] = {
    "all": {"embeddings": "full"},
    "rows": {"embeddings": "new_rows", "precision": "bfloat16"},
    "thawed": {"embeddings": "input_only", "precision": "bfloat16", "train_language": True},
    "tied": {"embeddings": "none"},
    "begun": {"embeddings": "full", "init_from": "before"},
}


def _begun(rank: int, given: dict[str, dict[str, Any]], place: Path, found: dict[str, Any]) -> None:
    for name, options in given.items():
        config = resolve(None, batch_size=2, seed=3, **options)
        session = begin(config, Colours(), place / "run", SHARDED, Console(io.StringIO()), None)
        drawn = torch.get_rng_state()
        values = {name: whole(value.detach()) for name, value in session.model.named_parameters()}
        found[name] = (values, drawn, {hasattr(value, "full_tensor") for value in session.model.parameters()})
    if rank == 0:
        torch.save(found, place / "found.pt")


def test_a_model_that_no_process_builds_whole_is_the_same(tmp_path: Path) -> None:
    folders = {**pretrained_folders(tmp_path), **SMALL_PERCEIVER}
    tied = {**folders, **pretrained_folders(tmp_path / "tied", {**LANGUAGES["llama"], "tie_word_embeddings": True})}
    config = resolve(None, batch_size=2, max_steps=1, **folders)
    train(config, Colours(), tmp_path / "before", options=SHARDED, console=Console(io.StringIO()))
    given = {name: {**(tied if name == "tied" else folders), **options} for name, options in BEGINNINGS.items()}
    for options in given.values():
        if "init_from" in options:
            options["init_from"] = str(tmp_path / "before")
    alone: dict[str, Any] = {}
    _begun(1, given, tmp_path, alone)
    on_ranks(2, _begun, given, tmp_path, {})
    together = torch.load(tmp_path / "found.pt")
    for name, (values, drawn, are_shards) in alone.items():
        theirs, their_drawn, are_their_shards = together[name]
        assert (are_shards, are_their_shards) == ({False}, {True})
        assert theirs.keys() == values.keys() and torch.equal(drawn, their_drawn), name
        for weight, value in values.items():
            assert theirs[weight].dtype == value.dtype and torch.equal(theirs[weight], value), (name, weight)


def _peak(rank: int, small: dict[str, str], large: dict[str, str], place: Path) -> None:
    for folders in (small, large):  # the first brings what torch and transformers need themselves
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = _kilobytes("VmRSS")
        config = resolve(None, embeddings="none", **folders)
        session = begin(config, Colours(), place / "run", SHARDED, Console(io.StringIO()), None)
        peak = 1024 * (_kilobytes("VmHWM") - before)
    whole_bytes = sum(value.numel() * value.element_size() for value in session.model.parameters())
    (place / f"{rank}.json").write_text(json.dumps([peak, whole_bytes]))


def _kilobytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are measured on Linux")
def test_each_process_reads_its_share_of_a_sharded_model(tmp_path: Path) -> None:
    large = {"hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 4}
    folders = [pretrained_folders(tmp_path / f"{len(more)}", {**LANGUAGES["llama"], **more}) for more in ({}, large)]
    on_ranks(2, _peak, *folders, tmp_path)
    for rank in (0, 1):
        peak, whole_bytes = json.loads((tmp_path / f"{rank}.json").read_text())
        assert whole_bytes > 100e6 and peak < 0.65 * whole_bytes
