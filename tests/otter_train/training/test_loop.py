"""The loop: resuming, splitting a batch and preparing it elsewhere change nothing; and it learns."""

from __future__ import annotations

import io
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
import torch.multiprocessing
from torch.utils.data._utils import signal_handling

from mimicit.errors import TrainError, UsageError
from mimicit.loading.order import Ordered
from mimicit.records import Sample
from otter_train.assembly import models as assembly
from otter_train.checkpoint.files import latest_checkpoint, load_weights, open_checkpoint
from otter_train.config.command_line import EVAL_NAME, LEFT_OUT_NAME
from otter_train.config.run_config import RunOptions, resolve
from otter_train.inference.answering import load_trained_model
from otter_train.model import PRESETS, Otter
from otter_train.reporting.metrics import Console, EvalRow, read_table
from otter_train.training.loop import Outcome, train
from otter_train.training.session import total_steps
from tests.factories.train import COLOURS, MINUTE_MODEL, Colours


@pytest.fixture(autouse=True)
def minute_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", MINUTE_MODEL)


RECIPE: dict[str, Any] = {"batch_size": 4, "epochs": 100, "max_steps": 20, "lr": 3e-3, "warmup": 0.1}


def run(
    folder: Path,
    *,
    samples: Ordered[Sample] | None = None,
    stop_after: int | None = None,
    workers: int = 0,
    accumulate: int = 1,
    resume: bool = True,
    log_every: int = 1,
    **recipe: Any,
) -> Outcome:
    """Train on coloured squares; ``stop_after`` asks it to stop after so many steps, as a signal would."""
    steps = iter(range(1, 1_000_000))
    return train(
        resolve("tiny", **{**RECIPE, **recipe}),
        Colours() if samples is None else samples,
        folder,
        options=RunOptions(
            workers=workers, accumulate=accumulate, resume=resume, save_every=0, log_every=log_every, device="cpu"
        ),
        console=Console(io.StringIO()),
        should_stop=lambda: next(steps) == stop_after,
    )


def losses(outcome: Outcome) -> list[float]:
    return [row.loss for row in outcome.rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    return load_weights(checkpoint)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, workers: int) -> None:
    whole = run(tmp_path / "whole")
    stopped = run(tmp_path / "parts", stop_after=10, workers=workers)
    assert (stopped.step, stopped.finished) == (10, False)
    torch.manual_seed(123)  # whatever else this process does in between
    resumed = run(tmp_path / "parts", workers=workers)
    assert resumed.finished and len(resumed.rows) == 20
    assert losses(resumed) == losses(whole)
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_resuming_at_any_step_gives_the_same_end(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", max_steps=6)
    for step in range(1, 6):
        folder = tmp_path / f"stopped-{step}"
        run(folder, max_steps=6, stop_after=step)
        assert losses(run(folder, max_steps=6)) == losses(whole)


def test_a_run_that_trains_new_rows_only_is_resumed_with_them(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", max_steps=6, embeddings="new_rows")
    run(tmp_path / "parts", max_steps=6, embeddings="new_rows", stop_after=3)
    assert losses(run(tmp_path / "parts", max_steps=6, embeddings="new_rows")) == losses(whole)
    names = weights(tmp_path / "parts")
    assert {"new_rows.input", "new_rows.output"} <= set(names)


@pytest.mark.parametrize("embeddings", ["full", "input_only", "new_rows", "none"])
def test_a_loaded_model_is_the_trained_one_in_every_weight(
    tmp_path: Path, embeddings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Otter] = []
    assemble = assembly.assemble_model
    monkeypatch.setattr(
        "otter_train.training.session.assemble_model",
        lambda *given, **options: built.append(assemble(*given, **options)) or built[0],
    )
    run(tmp_path, max_steps=2, embeddings=embeddings)
    torch.manual_seed(99)  # another process
    state = torch.get_rng_state()
    loaded = load_trained_model(tmp_path, device="cpu").model.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    trained = built[0].state_dict()
    assert loaded.keys() == trained.keys()
    assert [name for name in trained if not torch.equal(trained[name], loaded[name])] == []


def test_a_run_from_before_an_option_was_known_goes_on_with_its_default(tmp_path: Path) -> None:
    checkpoint = run(tmp_path, max_steps=4, stop_after=2).checkpoint
    meta = orjson.loads((checkpoint / "meta.json").read_bytes())
    del meta["config"]["context_order"]
    (checkpoint / "meta.json").write_bytes(orjson.dumps(meta))
    with pytest.raises(UsageError, match="context_order was as-is, is shuffled"):
        run(tmp_path, max_steps=4, context_order="shuffled")
    assert run(tmp_path, max_steps=4).finished


def test_lines_of_the_log_do_not_depend_on_how_often_they_are_written(tmp_path: Path) -> None:
    each = losses(run(tmp_path / "each", max_steps=6))
    rarely = run(tmp_path / "rarely", max_steps=6, log_every=4)
    assert [row.step for row in rarely.rows] == [4, 6]
    assert rarely.rows[0].loss == pytest.approx(sum(each[:4]) / 4, rel=0.2)
    assert min(each[:4]) <= rarely.rows[0].loss <= max(each[:4])


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_forward_passes_share_a_batch_without_changing_its_gradient(tmp_path: Path, accumulate: int) -> None:
    whole = run(tmp_path / "whole", max_steps=4)
    split = run(tmp_path / "split", max_steps=4, accumulate=accumulate)
    assert losses(split) == pytest.approx(losses(whole), rel=1e-4)


def test_it_learns_what_colour_a_square_has(tmp_path: Path) -> None:
    outcome = run(tmp_path, max_steps=120, batch_size=8, log_every=20)
    without_looking = math.log(len(COLOURS)) / 5  # of the five labels of a sample only the colour is left to guess
    assert losses(outcome)[-1] < 0.6 * without_looking
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + len(outcome.rows)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    assert losses(run(tmp_path / "0", max_steps=2)) != losses(run(tmp_path / "1", max_steps=2, seed=1))


def test_the_last_step_takes_what_is_left_of_the_epochs(tmp_path: Path) -> None:
    config = resolve("tiny", batch_size=5, epochs=1, max_steps=0)
    assert total_steps(config, 12) == 3
    outcome = run(tmp_path, batch_size=5, epochs=1, max_steps=0, accumulate=4)
    assert (outcome.step, outcome.rows[-1].samples) == (3, 12)


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    first = run(tmp_path, max_steps=2)
    before = {path.name: path.stat().st_mtime_ns for path in first.checkpoint.iterdir()}
    again = run(tmp_path, max_steps=2)
    assert again.finished and again.checkpoint == first.checkpoint
    assert {path.name: path.stat().st_mtime_ns for path in first.checkpoint.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, "lr was 0.003, is 0.5"),
        ({"max_tokens": 99, "seed": 7}, "max_tokens was 256, is 99; seed was 0, is 7"),
        ({"samples": Colours(fingerprint="other")}, "other shards"),
        ({"resume": False}, "checkpoint-00000002"),
    ],
)
def test_what_does_not_belong_to_the_run_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run(tmp_path, max_steps=2)
    with pytest.raises(UsageError, match=re.escape(message)):
        run(tmp_path, max_steps=2, **change)


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="gradient is no number"):
        run(tmp_path, lr=1e30, clip=0.0, max_steps=10)
    assert latest_checkpoint(tmp_path) is None


def test_a_damaged_picture_names_its_sample(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="sample-3"):
        run(tmp_path, samples=Colours(broken=3))


def test_no_sample_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sample"):
        run(tmp_path, samples=Colours(count=0))


class _Crowded(Colours):
    """Of every four samples one shows a picture more often than a prompt has tokens."""

    def stored(self, row: int) -> Sample:
        """The sample with the stored index ``row``."""
        found = super().stored(row)
        if row % 4:
            return found
        query = replace(found.query, media=tuple(range(1, 41)))
        return replace(found, media=found.media * 41, triplets=(*found.context, query))


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_cannot_be_shown_are_left_out_counted_and_named(
    tmp_path: Path, batch_size: int, workers: int
) -> None:
    said = io.StringIO()
    outcome = train(
        resolve("tiny", epochs=2, batch_size=batch_size, max_tokens=40, lr=1e-3),
        _Crowded(),
        tmp_path,
        options=RunOptions(workers=workers, save_every=0, log_every=1, device="cpu", eval_shards=tmp_path),
        console=Console(said),
        held_out=_Crowded(),
    )
    names = {f"sample-{row}" for row in (0, 4, 8)}
    lines = (tmp_path / LEFT_OUT_NAME).read_text().splitlines()
    assert {re.findall(r"sample '(.+?)' of test: 4. pictures .*--max-tokens", line)[0] for line in lines} == names
    assert len(lines) == 3  # of two epochs
    assert all(f"left out: sample {name!r}" in said.getvalue() for name in names)
    assert "3 samples were left out" in said.getvalue()
    assert outcome.finished and outcome.rows[-1].samples == 2 * 9
    assert read_table(EvalRow, tmp_path / EVAL_NAME)[-1].samples == 9


@pytest.mark.parametrize("left_by_another", [False, True])
def test_a_killed_data_worker_is_one_line_and_leaves_a_checkpoint(tmp_path: Path, left_by_another: bool) -> None:
    """Also where another loader of this process has left torch's handler, which raises anywhere."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if left_by_another:
        signal_handling._SIGCHLD_handler_set = False
        signal_handling._set_SIGCHLD_handler()
    try:
        _check_a_killed_data_worker(tmp_path)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _check_a_killed_data_worker(tmp_path: Path) -> None:
    steps = iter(range(1, 1_000))

    def kill_at_three() -> bool:
        if next(steps) == 3:
            for child in torch.multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
        return False

    def options(workers: int) -> RunOptions:
        return RunOptions(workers=workers, save_every=0, log_every=1, device="cpu")

    console, config = Console(io.StringIO()), resolve("tiny", **RECIPE)
    with pytest.raises(TrainError, match=r"was killed.*checkpoint-\d+ holds.*same command goes on$"):
        train(config, Colours(), tmp_path, options=options(1), console=console, should_stop=kill_at_three)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step >= 3
    outcome = train(config, Colours(), tmp_path, options=options(0), console=console)
    assert outcome.finished and losses(outcome) == losses(run(tmp_path / "whole"))


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    tmp_path.joinpath("run").mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UsageError, match="another training"):
            run(tmp_path / "run")
        other.communicate(b"\n")
    assert run(tmp_path / "run", max_steps=1).finished


def test_files_of_a_checkpoint_follow_the_umask_and_the_run_keeps_its_id(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        first = run(tmp_path, stop_after=1)
        second = run(tmp_path, stop_after=1)
    finally:
        os.umask(before)
    files = [path for path in second.checkpoint.rglob("*") if path.is_file()]
    assert len(files) > 3 and {path.stat().st_mode & 0o777 for path in files} == {0o640}
    ids = [open_checkpoint(outcome.checkpoint).meta["run_id"] for outcome in (first, second)]
    assert ids[0] == ids[1] != open_checkpoint(run(tmp_path / "run", max_steps=1).checkpoint).meta["run_id"]
