"""The training loop: steps, checkpoints, resume, and what is said about them.

A step is a pure function of (weights, optimiser state, step number): its samples are positions
``[step * G, (step + 1) * G)`` of the loader's order, its learning rate comes from `rate_factor`. So a run that was
interrupted and resumed computes, on a CPU bit for bit, what an uninterrupted run does. Nothing waits for the device
between two lines of the log.
"""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch.optim import AdamW
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError, UsageError
from mimicit.loading.torch import PositionSampler
from mimicit.prompt import template_named
from otter_train.assembly import assemble_model, load_trained, model_config, trained_weights, trains_everything
from otter_train.checkpoint import (
    Checkpoint,
    checkpoint_name,
    latest_checkpoint,
    load_optimizer_state,
    load_weights,
    save_checkpoint,
)
from otter_train.config import RunConfig, RunOptions, difference
from otter_train.config_file import CONFIG_NAME, write_options
from otter_train.data import Batch, OrderedSamples, batches, micro_batches
from otter_train.distributed import World, join_world, pick_device
from otter_train.encoding import Cut, PromptEncoder
from otter_train.metrics import Console, EvalRow, Row, Table, draw_loss, progress_line
from otter_train.model import ModelConfig, Otter, trainable_count
from otter_train.optimizer import make_optimizer, rate_factor
from otter_train.provenance import check_tokens, describe, generator_states, restore_generators
from otter_train.step import StepResult, take_step
from otter_train.tokenizer import load_tokenizer, train_tokenizer
from otter_train.validation import validate

__all__ = ["Outcome", "total_steps", "train"]

_TOKENIZER_SAMPLES = 5_000  # enough to find the frequent words; a large corpus need not be read twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended: after ``step`` of ``total`` steps, with its last checkpoint and the lines of its log."""

    step: int
    total: int
    checkpoint: Path
    rows: tuple[Row, ...]

    @property
    def finished(self) -> bool:
        """False where it was asked to stop before the end."""
        return self.step >= self.total


class _Session(NamedTuple):
    """What stays the same while one process works on a run."""

    config: RunConfig
    options: RunOptions
    samples: OrderedSamples
    run: Path
    console: Console
    device: torch.device
    world: World
    tokenizer: PreTrainedTokenizerBase
    architecture: ModelConfig
    model: Otter
    optimizer: AdamW
    table: Table[Row]
    eval_table: Table[EvalRow]
    first: int
    total: int


def train(
    config: RunConfig,
    samples: OrderedSamples,
    run: Path,
    *,
    options: RunOptions,
    console: Console,
    held_out: OrderedSamples | None = None,
    shards: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the end, or until ``should_stop`` (asked after every step), and leave a checkpoint in ``run``.

    ``held_out`` samples are those of ``options.eval_shards``; ``shards``, where the samples lie, is noted in the
    ``config.json`` of the run. Goes on from the last checkpoint of ``run``. `UsageError` where that belongs to another
    configuration or other shards, and where ``options.resume`` is off and there is one; `TrainError` where the loss is
    no number any more.
    """
    checkpoint = _checkpoint_to_resume(config, samples, run, options)
    session = _begin(config, samples, run, options, console, checkpoint, held_out)
    if session.world.is_first:
        everything = {**config.to_json(), **asdict(options), "out": run, "shards": shards}
        write_options(run / CONFIG_NAME, everything)
    step, window = session.first, _Window(session.device)
    cut, unlabelled = Cut(), 0
    saved = checkpoint.folder if checkpoint else run
    for group in _groups(session):
        result = _step(session, step, group)
        window.add(result)
        cut = reduce(Cut.plus, (batch.cut for batch in group if batch is not None), cut)
        unlabelled += result.labelled == 0
        step += 1
        (stopping,) = session.world.sum_numbers(int(should_stop()))
        saving = bool(stopping) or step == session.total or _is_multiple(step, options.save_every)
        if saving or _is_multiple(step, options.log_every):
            _log(session, step, window)
            window = _Window(session.device)
        if held_out is not None and (step == session.total or _is_multiple(step, options.eval_every)):
            started = time.perf_counter()
            _evaluate(session, held_out, step)
            window.started += time.perf_counter() - started
        if saving:
            saved = _save(session, step)
        if stopping:
            break
    _say_what_was_left_out(session, Cut(*session.world.sum_numbers(*cut)), unlabelled)
    return Outcome(step=step, total=session.total, checkpoint=saved, rows=tuple(session.table.rows))


def total_steps(config: RunConfig, sample_count: int) -> int:
    """Steps of a whole run over ``sample_count`` samples; the last one may be a part of a batch."""
    steps = math.ceil(config.epochs * sample_count / config.batch_size)
    return min(steps, config.max_steps) if config.max_steps else steps


def _checkpoint_to_resume(
    config: RunConfig, samples: OrderedSamples, run: Path, options: RunOptions
) -> Checkpoint | None:
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        return None
    if not options.resume:
        raise UsageError(f"{run} holds {checkpoint.folder.name}; without --resume give an --out folder that holds none")
    begun = RunConfig.from_json(dict(checkpoint.meta["config"]))  # options it did not know yet had their defaults
    changes = difference(begun.to_json(), config.to_json())
    if changes:
        raise UsageError(f"{run} was begun with other options: {'; '.join(changes)}; give them again, or another --out")
    if checkpoint.meta["loader_fingerprint"] != samples.fingerprint:
        raise UsageError(f"{run} was begun with other shards than these; give the same --shards, or another --out")
    return checkpoint


def _begin(
    config: RunConfig,
    samples: OrderedSamples,
    run: Path,
    options: RunOptions,
    console: Console,
    checkpoint: Checkpoint | None,
    held_out: OrderedSamples | None,
) -> _Session:
    if not len(samples):
        raise UsageError("the shards hold no sample; look at their rejects.parquet")
    device = pick_device(options.device)
    world = join_world(device)
    if not world.is_first:
        console = Console(io.StringIO())
    torch.manual_seed(config.seed)
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder) if checkpoint else _new_tokenizer(config, samples)
    architecture = ModelConfig.from_json(checkpoint.meta["model"]) if checkpoint else model_config(config)
    model = assemble_model(architecture, config, tokenizer, device).train()
    optimizer = make_optimizer(
        model, lr=config.lr, weight_decay=config.weight_decay, whole_model=trains_everything(config)
    )
    first = 0
    total = total_steps(config, len(samples))
    if checkpoint:
        check_tokens(checkpoint.meta, tokenizer)
        load_trained(model, load_weights(checkpoint))
        optimizer.load_state_dict(load_optimizer_state(checkpoint))
        restore_generators(checkpoint.meta["rng"], device)
        first = checkpoint.step
        console.say(f"going on from {checkpoint.folder} (step {first} of {total})")
    console.say(
        f"{trainable_count(model):,} of {sum(parameter.numel() for parameter in model.parameters()):,} weights are "
        f"trained on {device} for {total:,} steps of {config.batch_size} samples"
    )
    return _Session(
        config=config,
        options=options,
        samples=samples,
        run=run,
        console=console,
        device=device,
        world=world,
        tokenizer=tokenizer,
        architecture=architecture,
        model=model,
        optimizer=optimizer,
        table=Table(Row, run / "metrics.csv" if world.is_first else None, after_step=first),
        eval_table=Table(
            EvalRow, run / "eval.csv" if world.is_first and held_out is not None else None, after_step=first
        ),
        first=first,
        total=total,
    )


def _new_tokenizer(config: RunConfig, samples: OrderedSamples) -> PreTrainedTokenizerBase:
    if config.language_model is not None:
        return load_tokenizer(Path(config.language_model))
    return train_tokenizer(_texts(samples, config.template))


def _texts(samples: OrderedSamples, template_name: str) -> Iterator[str]:
    template = template_named(template_name)
    for position in range(min(len(samples), _TOKENIZER_SAMPLES)):
        for triplet in samples.get(position).triplets:
            yield f"{template.before}{triplet.instruction}{template.between}"
            yield triplet.answer


def _groups(session: _Session) -> Iterator[list[Batch | None]]:
    """The micro-batches of this process, step by step."""
    accumulate = session.options.accumulate
    encoder = _encoder(session)
    steps = PositionSampler(
        batch_size=session.config.batch_size,
        steps=session.total,
        start_step=session.first,
        rank=session.world.rank,
        world_size=session.world.size,
    )
    stream = batches(
        session.samples,
        encoder,
        micro_batches(steps, end=session.config.epochs * len(session.samples), accumulate=accumulate),
        image_size=session.model.vision.image_size,
        workers=_worker_count(session),
        pin_memory=session.device.type == "cuda",
    )
    while group := list(islice(stream, accumulate)):
        yield group


def _encoder(session: _Session) -> PromptEncoder:
    config = session.config
    return PromptEncoder(
        session.tokenizer,
        template=config.template,
        max_tokens=config.max_tokens,
        label_mode=config.label_mode,
        context_order=config.context_order,
        seed=config.seed,
    )


def _worker_count(session: _Session) -> int:
    if session.options.workers is not None:
        return session.options.workers
    return 0 if session.device.type == "cpu" else min(8, os.cpu_count() or 1)


def _step(session: _Session, step: int, group: Sequence[Batch | None]) -> StepResult:
    config = session.config
    factor = rate_factor(step, session.total, warmup=config.warmup, schedule=config.schedule)
    for pool in session.optimizer.param_groups:
        pool["lr"] = config.lr * factor
    return take_step(
        session.model,
        session.optimizer,
        group,
        device=session.device,
        world=session.world,
        clip=config.clip,
        precision=config.precision,
    )


class _Window:
    """The steps since the last line of the log; sums stay on the device."""

    def __init__(self, device: torch.device) -> None:
        self.started = time.perf_counter()
        self.loss = torch.zeros((), device=device)
        self.gradient_norm = torch.zeros((), device=device)
        self.labelled = 0
        self.steps = 0

    def add(self, result: StepResult) -> None:
        """Count one more step."""
        self.loss += result.loss * result.labelled
        self.gradient_norm = result.gradient_norm
        self.labelled += result.labelled
        self.steps += 1


def _log(session: _Session, step: int, window: _Window) -> None:
    session.world.sum_([window.loss])
    loss = window.loss.item() / max(1, window.labelled)
    elapsed_s = time.perf_counter() - window.started
    if not math.isfinite(loss):
        raise TrainError(f"the loss is {loss} at step {step}; try a lower --lr, a longer --warmup or --clip 1.0")
    end = session.config.epochs * len(session.samples)
    samples = min(step * session.config.batch_size, end)
    rows = session.table.rows
    row = Row(
        step=step,
        samples=samples,
        loss=loss,
        lr=float(session.optimizer.param_groups[0]["lr"]),
        gradient_norm=window.gradient_norm.item(),
        samples_per_s=window.steps * session.config.batch_size / elapsed_s,
        elapsed_s=elapsed_s + (rows[-1].elapsed_s if rows else 0.0),
    )
    session.table.append(row)
    left_s = (session.total - step) * row.elapsed_s / step
    session.console.progress(progress_line(row, session.total, left_s))


def _evaluate(session: _Session, held_out: OrderedSamples, step: int) -> None:
    row = validate(
        session.model,
        held_out,
        _encoder(session),
        step=step,
        limit=session.options.eval_limit,
        batch_size=max(1, session.config.batch_size // (session.world.size * session.options.accumulate)),
        device=session.device,
        world=session.world,
        precision=session.config.precision,
    )
    session.eval_table.append(row)
    session.console.say(f"step {step}/{session.total}  held-out loss {row.loss:.3f}  perplexity {row.perplexity:.2f}")


def _save(session: _Session, step: int) -> Path:
    config, run = session.config, session.run
    saved = run / checkpoint_name(step)
    if session.world.is_first:
        save_checkpoint(
            run,
            meta={
                **describe(config, session.architecture, session.tokenizer),
                "step": step,
                "total_steps": session.total,
                "samples_seen": min(step * config.batch_size, config.epochs * len(session.samples)),
                "loader_fingerprint": session.samples.fingerprint,
                "rng": generator_states(session.device),
            },
            weights=trained_weights(session.model),
            optimizer_state=session.optimizer.state_dict(),
            tokenizer=session.tokenizer,
        )
        draw_loss(session.table.rows, run / "loss.png", session.eval_table.rows)
    session.world.wait()
    return saved


def _say_what_was_left_out(session: _Session, cut: Cut, unlabelled: int) -> None:
    if any(cut):
        session.console.say(
            f"cut to fit --max-tokens {session.config.max_tokens}: {cut.context_triplets} context triplets, "
            f"{cut.instructions} instructions; {cut.answers} answers were too long to be learnt"
        )
    if unlabelled:
        session.console.say(f"{unlabelled} steps had nothing to learn from and changed nothing")


def _is_multiple(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
