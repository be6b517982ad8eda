"""The guard: a bad step changes nothing, is named by its sample, and can be looked at again; the run goes on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from torch import Tensor

import otter_train.training.step
from mimicit.errors import TrainError, UsageError
from otter_train.checkpoint.files import (
    Checkpoint,
    latest_checkpoint,
    load_optimizer_state,
    load_weights,
    open_checkpoint,
)
from otter_train.config.run_config import GuardMode, RunOptions, resolve
from otter_train.data.batches import normalise
from otter_train.model import PRESETS
from otter_train.reporting.metrics import Console, Row, read_table
from otter_train.training.guard import BadSample, BadStep, Guard
from otter_train.training.loop import Outcome, train
from otter_train.training.replay import lines, replay
from tests.factories.train import COLOURS, MINUTE_MODEL, Colours

CPU = torch.device("cpu")
POISON = (1, 2, 3)
STEPS = 6


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Colours:
    """Samples of which one has a picture that becomes NaN on its way into the model."""

    def poison(vision_x: Tensor, *scales: Any) -> Tensor:
        pixels = normalise(vision_x, *scales)
        hit = (vision_x == torch.tensor(POISON, dtype=torch.uint8).view(3, 1, 1)).flatten(-3).all(-1)
        return pixels.masked_fill(hit[..., None, None, None], float("nan"))

    monkeypatch.setitem(PRESETS, "tiny", MINUTE_MODEL)
    monkeypatch.setitem(COLOURS, "poison", POISON)
    monkeypatch.setattr(otter_train.training.step, "normalise", poison)
    return Colours(count=5)  # with five colours, sample-4 is the poisoned one


def run(samples: Colours, folder: Path, guard: GuardMode = "skip", **options: Any) -> tuple[Outcome, str]:
    output = io.StringIO()
    outcome = train(
        resolve("tiny", batch_size=3, epochs=100, max_steps=STEPS, lr=3e-3, guard=guard),
        samples,
        folder,
        options=RunOptions(**{"save_every": 1, "keep": 99, "log_every": 4, "device": "cpu", **options}),
        console=Console(output),
    )
    return outcome, output.getvalue()


def bad_steps(samples: Colours) -> list[int]:
    shown = [[samples.get(3 * step + place).id for place in range(3)] for step in range(STEPS)]
    return [step for step, ids in enumerate(shown, 1) if "sample-4" in ids]


def test_a_poisoned_sample_is_named_and_the_run_goes_on(poisoned: Colours, tmp_path: Path) -> None:
    outcome, output = run(poisoned, tmp_path / "run")
    bad = bad_steps(poisoned)
    assert outcome.finished and 1 < len(bad) < STEPS
    for step in bad:
        assert f"step {step}: the gradient is not a number; sample-4 (test); --replay {step}" in output
    written = [orjson.loads(line) for line in (tmp_path / "run" / "guard.jsonl").read_bytes().splitlines()]
    assert [one["step"] for one in written] == bad
    assert all({s["id"] for s in one["samples"] if s["loss"] is None} == {"sample-4"} for one in written)
    rows = read_table(Row, tmp_path / "run" / "metrics.csv")
    assert sum(row.left_out for row in rows) == len(bad)
    for step in range(2, STEPS + 1):  # what a bad step leaves is what it found
        before, after = (load_weights(checkpoint(tmp_path / "run", number)) for number in (step - 1, step))
        moments = [load_optimizer_state(checkpoint(tmp_path / "run", number)) for number in (step - 1, step)]
        same = all(torch.equal(before[name], after[name]) for name in before)
        assert same == (step in bad)
        if step in bad and moments[0]:
            assert all(
                torch.equal(part, moments[1][name][key])
                for name, parts in moments[0].items()
                for key, part in parts.items()
            )
        assert all(torch.isfinite(value).all() for value in after.values())


def test_a_run_may_stop_at_a_bad_step_instead(poisoned: Colours, tmp_path: Path) -> None:
    first = bad_steps(poisoned)[0]
    with pytest.raises(TrainError, match=rf"step {first}: .*sample-4.*--guard skip"):
        run(poisoned, tmp_path / "run", "stop", log_every=1)
    found = latest_checkpoint(tmp_path / "run") if first > 1 else None
    assert found is None or found.step == first - 1


def test_unguarded_the_loss_is_lost(poisoned: Colours, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="the loss is nan"):
        run(poisoned, tmp_path / "run", "off", log_every=1)


def test_a_step_can_be_computed_again(poisoned: Colours, tmp_path: Path) -> None:
    run(poisoned, tmp_path / "run", save_every=2)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    config = resolve("tiny", batch_size=3, epochs=100, max_steps=STEPS, lr=3e-3)
    options = RunOptions(device="cpu")
    written = [orjson.loads(line) for line in (tmp_path / "run" / "guard.jsonl").read_bytes().splitlines()]
    for one in written:
        again = replay(config, poisoned, tmp_path / "run", one["step"], options=options, console=Console(io.StringIO()))
        assert [sample.id for sample in again] == [sample["id"] for sample in one["samples"]]
        for sample, then in zip(again, one["samples"], strict=True):
            assert sample.loss != sample.loss if then["loss"] is None else sample.loss == then["loss"]
        assert "sample-4" in list(lines(again))[1]  # the worst comes first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    with pytest.raises(UsageError, match="steps 1 to 6"):
        replay(config, poisoned, tmp_path / "run", 7, options=options, console=Console(io.StringIO()))
    other = resolve("tiny", batch_size=3, epochs=100, max_steps=STEPS)
    with pytest.raises(UsageError, match="lr was"):
        replay(other, poisoned, tmp_path / "run", 5, options=options, console=Console(io.StringIO()))


def checkpoint(run: Path, step: int) -> Checkpoint:
    return open_checkpoint(run / f"checkpoint-{step:08d}")


def judged(guard: Guard, norms: list[float]) -> list[bool]:
    return [bool(guard.judge(torch.tensor(norm))) for norm in norms]


def test_a_spike_is_what_lies_far_above_the_usual() -> None:
    guard = Guard("skip", 20.0, CPU)
    usual = [1.0 + 0.1 * (number % 7) for number in range(60)]
    assert not any(judged(guard, usual))
    assert judged(guard, [15.0, 500.0, float("inf"), float("nan"), 1.0]) == [False, True, True, True, False]
    assert guard.state()["in_a_row"] == 0
    early = Guard("skip", 20.0, CPU)
    assert judged(early, [1e-3, 1e3]) == [False, False]  # nothing is usual yet
    assert judged(Guard("skip", 0.0, CPU), [*usual, 1e9]) == [False] * 61
    assert judged(Guard("off", 20.0, CPU), [float("nan")]) == [False]


def test_what_clipping_lets_through_is_no_spike() -> None:
    guard = Guard("skip", 20.0, CPU, harmless=1.0)
    assert judged(guard, [1e-3] * 60 + [0.9, 1.1, float("nan")]) == [False] * 61 + [True, True]
    assert judged(Guard("skip", 20.0, CPU, harmless=1.0), [1.0] * 60 + [21.0]) == [False] * 60 + [True]


def test_a_norm_that_stays_far_above_becomes_the_usual_one_where_gradients_are_clipped() -> None:
    guard = Guard("skip", 20.0, CPU, harmless=1.0)
    assert not any(judged(guard, [1.0] * 60))
    assert judged(guard, [30.0, 31.0, 32.0, 33.0, 34.0, 35.0, 2.0]) == [True] * 4 + [False] * 3
    assert judged(guard, [900.0]) == [True]  # measured by the new usual
    assert all(judged(guard, [float("nan")] * 10))  # no number ever is
    assert all(judged(Guard("skip", 20.0, CPU), [*[1.0] * 60, *[30.0] * 8])[60:])  # nothing bounds these


def test_the_state_of_a_guard_comes_back_exactly() -> None:
    first, second = Guard("skip", 20.0, CPU), Guard("skip", 20.0, CPU)
    norms = [0.1 * number for number in range(1, 80)]
    judged(first, norms)
    second.load_state(orjson.loads(orjson.dumps(first.state())))
    assert second.state() == first.state()
    assert judged(first, norms) == judged(second, norms) and first.state() == second.state()


def test_too_many_bad_steps_at_a_stretch_end_the_run() -> None:
    guard = Guard("skip", 20.0, CPU)
    bad = BadStep(step=5, reason="not a number", gradient_norm=None, samples=())
    judged(guard, [1.0, *[float("nan")] * 4])
    guard.report([bad], None)
    judged(guard, [float("nan")])
    with pytest.raises(TrainError, match="gradient is no number at step 5"):
        guard.report([bad], None)


def test_without_a_broken_sample_the_worst_come_first() -> None:
    samples = tuple(BadSample(id=f"s{number}", source="a", loss=float(number)) for number in range(6))
    line = BadStep(step=3, reason="spike", gradient_norm=1234.0, samples=samples).line()
    assert line == (
        "step 3: the gradient has norm 1.23e+03, a spike; s5 (a), s4 (a), s3 (a), s2 (a) and 2 more; "
        "--replay 3 computes it again"
    )
