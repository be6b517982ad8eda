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
from typing import TYPE_CHECKING, Any, Final, get_args

import click

from mimicit.prompt import TEMPLATES
from otter_train.config.command_line import HELP, Program, calm_threads, errors_on_one_line, importing, run_and_leave
from otter_train.config.config_file import config_option
from otter_train.config.run_config import (
    PRESETS,
    RECIPES,
    AdapterPlace,
    ContextOrder,
    Embeddings,
    GuardMode,
    LabelMode,
    Precision,
    RunConfig,
    RunOptions,
    Schedule,
    resolve,
)

if TYPE_CHECKING:
    from mimicit.loading import Samples

__all__ = ["main"]

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
    help="Folder that mimicit build has written, or its URL; several are mixed by their weights, else by their sizes.",
)
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only such samples: source=vqa, max_frames=8, ...")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many samples of each folder, drawn by the seed.")
@click.option(
    "--on-error",
    type=click.Choice(["raise", "mask"]),
    default="raise",
    help="mask: leave damaged samples out, and list them in quarantine.jsonl.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("run"), help="Run folder: checkpoints, log, curve."
)
@click.option(
    "--preset",
    type=click.Choice(sorted(PRESETS)),
    help="Model and recipe.  [default: otter-9b if weights are named, else tiny]",
)
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), help="Fix all settings as the paper and its code do.")
@click.option("--language-model", help="Folder of a pretrained LLaMA-family model (transformers format).")
@click.option("--vision-model", help="Folder of a pretrained CLIP model (transformers format).")
@click.option(
    "--init-from", help="Begin with the weights of this run, or of an OpenFlamingo or Otter model that convert reads."
)
@click.option("--epochs", type=int, help="Passes over the samples.")
@click.option("--batch-size", type=int, help="Samples (or rows) of an optimiser step, over all devices.")
@click.option("--batch-tokens", type=int, help="Tokens of a row of samples; --batch-size counts rows.")
@click.option("--accumulate", type=int, default=1, help="Forward passes that a step is split into, per device.")
@click.option("--lr", type=float, help="Highest learning rate of AdamW.")
@click.option("--schedule", type=click.Choice(get_args(Schedule)), help="Course of the learning rate after warm-up.")
@click.option("--warmup", type=float, help="Share of the steps in which the learning rate climbs.")
@click.option("--clip", type=float, help="Largest gradient norm; 0 for no clipping.")
@click.option("--weight-decay", type=float, help="Of the cross-attention matrices.")
@click.option("--beta2", type=float, help="Of AdamW; 0.95 follows a change of the gradients sooner than 0.999.")
@click.option("--max-tokens", type=int, help="Longest prompt; longer ones lose context, farthest first.")
@click.option(
    "--label-mode", type=click.Choice(get_args(LabelMode)), help="Learn answers only, or as the paper's code."
)
@click.option("--embeddings", type=click.Choice(get_args(Embeddings)), help="Which embedding matrices are trained.")
@click.option("--train-language", is_flag=True, help="Train the pretrained language model too.")
@click.option("--train-vision", is_flag=True, help="Train the pretrained vision model too.")
@click.option("--lora-rank", type=int, help="Train LoRA adapters of this rank on pretrained models; needs peft.")
@click.option("--lora-alpha", type=float, help="Their scale is this over the rank.  [default: twice the rank]")
@click.option("--lora-targets", help="Names of the matrices they adapt, q_proj,v_proj say.  [default: all in layers]")
@click.option("--lora-on", type=click.Choice(get_args(AdapterPlace)), help="Which pretrained models they adapt.")
@click.option("--lora-only", is_flag=True, help="Train nothing but the adapters.")
@click.option("--lr-perceiver", type=float, help="Rate of the perceiver.  [default: --lr]")
@click.option("--lr-cross-attention", type=float, help="Rate of the cross-attention.  [default: --lr]")
@click.option("--lr-language", type=float, help="Rate of the language model, with embeddings.  [default: --lr]")
@click.option("--lr-vision", type=float, help="Rate of the vision model.  [default: --lr]")
@click.option("--latents", type=int, help="Tokens that the perceiver makes of each picture or clip.")
@click.option("--latent-std", type=float, help="Of what these start as; 1 is the paper's.")
@click.option("--perceiver-depth", type=int, help="Layers of the perceiver.")
@click.option("--perceiver-width", type=int, help="Of the perceiver; without it that of the vision tower.")
@click.option("--cross-attention-every", type=int, help="Look at pictures before every n-th layer of the decoder.")
@click.option("--cross-attention-gate", type=float, help="How far that is open at the start; 0: closed.")
@click.option("--template", type=click.Choice(sorted(TEMPLATES)), help="Prompt template.")
@click.option(
    "--context-order",
    type=click.Choice(get_args(ContextOrder)),
    help="Show the context in its own order, or in one drawn by the seed.",
)
@click.option("--seed", type=int, help="Order of the samples and random weights.")
@click.option(
    "--workers", type=int, help="Processes that prepare batches.  [default: 0 on the CPU, up to 8 beside a GPU]"
)
@click.option(
    "--max-steps", type=int, help="End after this many steps, if the epochs do not end before; 0 for no limit."
)
@click.option("--save-every", type=int, default=500, help="Steps between checkpoints; 0 for one at the end.")
@click.option("--keep", type=int, default=3, help="Checkpoints that stay; older ones are removed.")
@click.option("--log-every", type=int, default=10, help="Steps between lines of the log.")
@click.option("--eval-shards", help="Held-out shards to measure the loss on, a folder or its URL.")
@click.option("--eval-every", type=int, default=500, help="Steps between such measurements; 0 for one at the end.")
@click.option("--eval-limit", type=int, default=512, help="Measure on this many of the held-out samples.")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="auto: bfloat16 on a GPU, else float32.")
@click.option("--stochastic-rounding", is_flag=True, help="Trained weights in bfloat16, without float32: less memory.")
@click.option("--shard-frozen", is_flag=True, help="Spread frozen weights over the devices too, for small ones.")
@click.option(
    "--guard", type=click.Choice(get_args(GuardMode)), help="What to do with a step whose gradient is no number."
)
@click.option("--guard-factor", type=float, help="As bad: a gradient norm of so many times the usual; 0 for none.")
@click.option(
    "--continue-as",
    type=click.Path(path_type=Path),
    metavar="NEW_RUN",
    help="Go on from the last checkpoint of --out in this folder: with another rate, schedule or length, say.",
)
@click.option("--replay", type=int, help="Compute this step again, print the loss of each sample, and change nothing.")
@click.option("--checkpoint-activations", type=int, default=0, help="Recompute those of every n-th layer; 0: none.")
@click.option("--compile", is_flag=True, help="Compile the decoder's layers: slow to start, faster steps.")
@click.option("--vision-cache", type=click.Path(path_type=Path), help="Folder to keep the vision tower's tokens in.")
@click.option("--vision-cache-gb", type=int, default=100, help="Largest size of that folder.")
@click.option("--profile", type=int, default=0, help="Write a trace of so many steps into --out.")
@click.option("--tensorboard", is_flag=True, help="Write the numbers of the log for TensorBoard too, into --out.")
@click.option("--wandb", metavar="PROJECT", help="Send the numbers of the log to Weights & Biases too.")
@click.option(
    "--resume/--no-resume", default=True, help="Go on from the last checkpoint in --out; else refuse if there is one."
)
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
        from otter_train.checkpoint.pretrained_parts import PARTS

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
    from otter_train.evaluation.held_out_answers import answers_by_shots
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
    """The signals to stop that were ``received``. Until a step is done, Ctrl-C acts as ever: nothing would be lost."""

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._stepped = False

    def should_stop(self) -> bool:
        """To be asked after every step."""
        self._stepped = True
        return bool(self.received)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal ``number``. A second one of the kind ends the process at once, whatever that does."""
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
