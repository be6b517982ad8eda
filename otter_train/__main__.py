"""``python -m otter_train``: train a model from a folder of shards."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from mimicit.options import click_options
from otter_train.config.command_line import (
    HELP,
    Program,
    calm_threads,
    config_option,
    errors_on_one_line,
    importing,
    run_and_leave,
)
from otter_train.config.run_config import RECIPES, RunConfig, RunOptions, resolve

if TYPE_CHECKING:
    from mimicit.loading import Samples

_SHOWN_ANSWERS: Final = 12
_QUARANTINE_NAME: Final = "quarantine.jsonl"

_ABOUT_PRESETS = (
    "Training the tiny preset: a small model, from scratch, on the CPU if need be. For Otter-9B: "
    "--preset otter-9b --language-model PATH --vision-model PATH"
)


@click.command(cls=Program, context_settings=HELP)
@config_option()
@click.option(
    "--shards",
    multiple=True,
    required=True,
    metavar="FOLDER[=WEIGHT]",
    help="Folder written by mimicit build, or its URL; several are mixed by their weights, or else by size.",
)
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Use matching samples only: source=vqa, ...")
@click.option("--limit", type=click.IntRange(min=1), help="Samples to use of each folder, at most, drawn by the seed.")
@click.option(
    "--on-error",
    type=click.Choice(["raise", "mask"]),
    default="raise",
    help="raise: stop at a damaged sample; mask: leave it out, and list it in quarantine.jsonl.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("run"), help="Run folder for checkpoints, log and curve."
)
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), help="Fix all settings as in the paper and its code.")
@click_options(RunConfig, defaults=False)
@click_options(RunOptions)
@click.option(
    "--continue-as",
    type=click.Path(path_type=Path),
    metavar="NEW_RUN",
    help="Continue in this new folder from the last checkpoint of --out, with another rate, schedule or length, say.",
)
@click.option("--replay", type=int, help="Recompute this step and print the loss of each sample; change nothing.")
def main(
    out: Path, preset: str | None, recipe: str | None, replay: int | None, continue_as: Path | None, **given: Any
) -> None:
    """Train a vision-language model on the in-context samples of SHARDS.

    Options without a default come from the preset; those of otter-9b are the paper's: learning rate 1e-5, 6 epochs,
    cosine schedule with 1% warm-up, clipping at 1.0, 4 samples a step, packed without padding where the decoder can.
    --recipe paper follows the paper and its code in everything. Start it with torchrun to use many GPUs. Ctrl-C (exit
    code 1) and SIGTERM (0) write a checkpoint; the same command goes on from it. All options of a run are kept in its
    config.json, which can be given again as --config.
    """
    with errors_on_one_line():
        options = RunOptions(**{field.name: given.pop(field.name) for field in fields(RunOptions)})
        data = {name: given.pop(name) for name in ("shards", "where", "limit", "on_error")}
        try:
            config = _resolved(preset, recipe, given)
            if replay is not None:
                sys.exit(_replay(config, options, data, out, replay))
            if continue_as is not None:
                sys.exit(_train(config, options, data, continue_as, parent=out, chosen=preset is not None))
            sys.exit(_train(config, options, data, out, parent=None, chosen=preset is not None))
        except KeyboardInterrupt:
            click.echo("\nStopped before a step was done; there is nothing new to keep.", err=True)
            sys.exit(1)


def _resolved(preset: str | None, recipe: str | None, given: dict[str, Any]) -> RunConfig:
    if given["init_from"] is None:
        return resolve(preset, recipe=recipe, **given)
    _say_that_it_loads(f"to look at {given['init_from']}")
    calm_threads()
    with importing():
        from otter_train.assembly.initial_weights import inherited  # seconds of imports, not needed for --help
        from otter_train.checkpoint.meta import PARTS

    found = inherited(Path(given["init_from"]), **{name: given[name] for name in PARTS})
    theirs = found.pop("preset", None)
    chosen = {name: value for name, value in given.items() if value is not None}
    return resolve(preset or theirs, recipe=recipe, **{**found, **chosen})


def _train(
    config: RunConfig, options: RunOptions, data: dict[str, Any], out: Path, *, parent: Path | None, chosen: bool
) -> int:
    if _is_first() and config.preset == "tiny" and not chosen:
        click.echo(_ABOUT_PRESETS)
    _say_that_it_loads(f"to train {config.preset} on {' and '.join(data['shards'])}")
    calm_threads()
    with importing():
        from mimicit.loading import load  # seconds of imports, not needed for --help
        from otter_train.checkpoint.lineage import shards_to_open
        from otter_train.data.shards import absolute_shards, open_shards
        from otter_train.reporting.metrics import Console
        from otter_train.training.loop import train

    console = Console(sys.stdout if _is_first() else io.StringIO())
    shards, weights = shards_to_open(out, parent, data["shards"])
    samples = open_shards(**{**data, "shards": shards}, quarantine=out / _QUARANTINE_NAME, seed=config.seed)
    held_out = load(options.eval_shards, shuffle="full") if options.eval_shards else None
    with _stop_signals() as signals:
        outcome = train(
            config,
            samples,
            out,
            options=options,
            console=console,
            held_out=held_out,
            data={**data, "shards": absolute_shards(data["shards"])},
            parent=parent,
            weights=weights,
            should_stop=signals.should_stop,
        )
    if not outcome.finished:
        console.say(
            f"Stopped after step {outcome.step} of {outcome.total}; {outcome.checkpoint} holds it, "
            "the same command goes on from there."
        )
        return 0 if signal.SIGTERM in signals.received else 1
    if _is_first():
        report = _report(out, held_out, options.device)
        console.say(f"Trained: {outcome.checkpoint}; curves, settings and data in {report}, numbers in {out}/*.csv.")
    console.say(f'Next: python -m otter_train.generate --checkpoint {out} --image YOUR.jpg --prompt "What is this?"')
    return 0


def _report(run: Path, held_out: Samples | None, device: str) -> Path:
    from otter_train.evaluation.attempts import answers_by_shots
    from otter_train.inference.answering import load_trained_model
    from otter_train.reporting.run_report import write_report

    if held_out is None:
        return write_report(run)
    return write_report(run, answers_by_shots(load_trained_model(run, device=device), held_out[:_SHOWN_ANSWERS]))


def _replay(config: RunConfig, options: RunOptions, data: dict[str, Any], out: Path, step: int) -> int:
    _say_that_it_loads(f"to compute step {step} of {out} again")
    calm_threads()
    with importing():
        from otter_train.checkpoint.lineage import shards_to_open
        from otter_train.data.shards import open_shards  # seconds of imports, not needed for --help
        from otter_train.reporting.metrics import Console
        from otter_train.training.replay import lines, replay

    console = Console(sys.stdout if _is_first() else io.StringIO())
    shards, _ = shards_to_open(out, None, data["shards"])
    samples = open_shards(**{**data, "shards": shards}, seed=config.seed)
    for line in lines(replay(config, samples, out, step, options=options, console=console)):
        console.say(line)
    return 0


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say_that_it_loads(why: str) -> None:
    if _is_first():  # the imports take seconds
        click.echo(f"Loading PyTorch and transformers {why} ...")


class _Signals:
    """The stop signals that were ``received``. Until a step is done, Ctrl-C acts as usual: nothing would be lost."""

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._stepped = False

    def should_stop(self) -> bool:
        """Whether to stop; to be called after every step."""
        self._stepped = True
        return bool(self.received)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal ``number``. A second one of the same kind ends the process immediately."""
        if number == signal.SIGINT and not self._stepped:
            raise KeyboardInterrupt
        self.received.append(signal.Signals(number))
        signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGINT and _is_first():
            # Not through a buffer, which may be in the middle of a line.
            os.write(2, b"\nStopping after this step, with a checkpoint; Ctrl-C once more stops at once.\n")


@contextmanager
def _stop_signals() -> Iterator[_Signals]:
    signals = _Signals()
    before = {number: signal.signal(number, signals.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    run_and_leave(main)
