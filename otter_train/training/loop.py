"""The training loop: steps, checkpoints, and when the log is written.

A step is a pure function of (weights, optimiser state, step number): its samples are positions
``[step * G, (step + 1) * G)`` of the loader's order, its learning rate comes from `rate_factor`. So a run that was
interrupted and resumed computes, on a CPU bit for bit, what an uninterrupted run does. Nothing waits for the device
between two lines of the log.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from torch.profiler import profile, schedule, supported_activities

from mimicit.errors import LostWorkerError, TrainError, UsageError
from mimicit.loading.order import Ordered
from mimicit.records import Sample
from otter_train.checkpoint.files import (
    BackgroundSaver,
    Checkpoint,
    checkpoint_name,
    remove_unfinished,
    save_checkpoint,
)
from otter_train.checkpoint.lineage import descend
from otter_train.checkpoint.meta import PARTS, describe, generator_states, places_of
from otter_train.config.command_line import CONFIG_NAME, LEFT_OUT_NAME, absolute_path, write_options
from otter_train.config.run_config import RunConfig, RunOptions
from otter_train.data.encoding import Cut
from otter_train.data.micro_batches import Group, each_group
from otter_train.reporting.metrics import Console, Row
from otter_train.training.log import Logbook, Window, logbook
from otter_train.training.optimizer import rate_factor, set_rates
from otter_train.training.session import Session, begin, changes_since, checkpoint_to_resume
from otter_train.training.snapshot import take_snapshot
from otter_train.training.step import StepResult, take_step, validate

_LOCK_NAME: Final = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended: after ``step`` of ``total`` steps, with its last checkpoint and the lines of its log."""

    step: int
    total: int
    checkpoint: Path
    rows: tuple[Row, ...]

    @property
    def finished(self) -> bool:
        """False if it was asked to stop before the end."""
        return self.step >= self.total


def train(
    config: RunConfig,
    samples: Ordered[Sample],
    run: Path,
    *,
    options: RunOptions,
    console: Console,
    held_out: Ordered[Sample] | None = None,
    data: Mapping[str, Any] = MappingProxyType({}),
    parent: Path | None = None,
    weights: Sequence[float] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the end, or until ``should_stop`` (asked after every step), and leave a checkpoint in ``run``.

    ``held_out`` samples are those of ``options.eval_shards``; ``data`` are the options that say where the samples come
    from, to be recorded in the ``config.json`` of the run. Continues from the last checkpoint of ``run``; a new run may
    continue from the run ``parent``, with other ``weights`` for the parts of a mixture (see
    `otter_train.checkpoint.lineage`).

    `UsageError` if a checkpoint belongs to another configuration or other shards, if there is one and
    ``options.resume`` is off, or if another training writes into ``run``; `TrainError` if the guard stops the run, or
    its last checkpoint cannot be written. If a process that prepares data is killed, `TrainError` says so, and a
    checkpoint is left.
    """
    with _held(run):
        checkpoint = checkpoint_to_resume(config, run, options, parent)
        leaves = checkpoint is not None and parent is not None and checkpoint.folder.parent == parent
        session = begin(config, samples, run, options, console, checkpoint, weights=weights if leaves else None)
        if session.world.is_first:
            _note_options(session, data)
            if checkpoint is not None and parent is not None and leaves:
                changes = list(changes_since(checkpoint, config).values())
                if weights is not None:
                    changes.append(f"weights of --shards are {', '.join(map('{:g}'.format, weights))}")
                descend(parent, run, checkpoint.step, changes)
        return _trained(session, held_out, should_stop, checkpoint)


def _note_options(session: Session, data: Mapping[str, Any]) -> None:
    """Write the options of the run into its folder."""
    session.run.mkdir(parents=True, exist_ok=True)
    remove_unfinished(session.run)
    options = {**session.config.to_json(), **asdict(session.options), "out": session.run, **data}
    for name in (*PARTS, "init_from", "eval_shards"):  # the file may be used from another working folder
        if options[name] is not None:
            options[name] = absolute_path(str(options[name]))
    write_options(session.run / CONFIG_NAME, options)


def _trained(
    session: Session, held_out: Ordered[Sample] | None, should_stop: Callable[[], bool], checkpoint: Checkpoint | None
) -> Outcome:
    """Train from ``checkpoint`` on, with the log, the background saver and the profiler."""
    run = session.run
    trace = run / f"trace-{session.first:08d}.json" if session.world.is_first else None
    with logbook(session) as book, BackgroundSaver() as saver, traced(session.options.profile, trace) as after_step:
        step = _loop(session, book, saver, held_out, should_stop, after_step)
        saver.finish()
    session.world.wait()
    saved = run / checkpoint_name(step) if step > session.first or checkpoint is None else checkpoint.folder
    return Outcome(step=step, total=session.total, checkpoint=saved, rows=tuple(book.table.rows))


@contextmanager
def _held(run: Path) -> Iterator[None]:
    """Lock ``run`` against other trainings for the length of the block; the first of several processes does so for all.

    `UsageError` if another training holds it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    is_new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    with open(run / _LOCK_NAME, "ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, workers do not hold it after our death
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise UsageError(
                f"{run}: another training is writing there; wait for it to end, or give another --out"
            ) from None
        try:
            yield
        finally:
            if is_new and os.listdir(run) == [_LOCK_NAME]:  # it was refused
                (run / _LOCK_NAME).unlink()
                run.rmdir()


def run_step(session: Session, step: int, group: Group) -> StepResult:
    """Take step number ``step`` (from 0) with the samples of ``group``."""
    config = session.config
    factor = rate_factor(step, session.total, warmup=config.warmup, schedule=config.schedule)
    set_rates(session.optimizer, config.lr * factor)
    return take_step(
        session.model,
        session.optimizer,
        group,
        device=session.device,
        world=session.world,
        clip=config.clip,
        precision=config.precision,
        guard=session.guard,
        features=session.features,
    )


def _loop(
    session: Session,
    book: Logbook,
    saver: BackgroundSaver,
    held_out: Ordered[Sample] | None,
    should_stop: Callable[[], bool],
    after_step: Callable[[], None],
) -> int:
    """Take steps until the end, or until ``should_stop``; returns how many the run has now."""
    options, step = session.options, session.first
    window = Window(session.device)
    cut, unlabelled, seen = Cut(), 0, 0
    groups = _timed(each_group(session.loader))
    while True:
        try:
            group, waited_s = next(groups)
        except StopIteration:
            break
        except LostWorkerError as error:
            if session.world.size > 1 or step == session.first:
                raise
            _save(session, book, saver, step, session.seen + seen)
            saver.finish()
            raise TrainError(
                f"{error}; {checkpoint_name(step)} holds what was learned, the same command goes on"
            ) from None
        window.waited_s += waited_s
        result = run_step(session, step, group)
        step += 1
        window.add(step, result, group)
        after_step()
        cut = reduce(Cut.plus, (batch.cut for batch in group if batch is not None), cut)
        unlabelled += result.labelled == 0
        seen += sum(len(batch.ids) for batch in group if batch is not None)
        (stopping,) = session.world.sum_numbers(int(should_stop()))
        is_last = step == session.total or bool(stopping)
        saving = is_last or _is_multiple(step, options.save_every)
        if saving or _is_multiple(step, options.log_every):
            book.write(step, window)
            window = Window(session.device)
        started = time.perf_counter()
        if held_out is not None and (step == session.total or _is_multiple(step, options.eval_every)):
            _evaluate(session, book, held_out, step)
        if saving:
            total_seen = session.seen + session.world.sum_numbers(seen)[0]
            _save(session, book, saver, step, total_seen, draw=not stopping)
        window.leave_out(time.perf_counter() - started)
        if stopping:
            break
    _say_what_was_left_out(session, book, Cut(*session.world.sum_numbers(*cut)), unlabelled)
    return step


def _timed(groups: Iterator[Group]) -> Iterator[tuple[Group, float]]:
    """Each of ``groups``, and how long it was waited for, in seconds."""
    while True:
        started = time.perf_counter()
        group = next(groups, None)
        if group is None:
            return
        yield group, time.perf_counter() - started


def _evaluate(session: Session, book: Logbook, held_out: Ordered[Sample], step: int) -> None:
    config = session.config
    row = validate(
        session.model,
        held_out,
        session.encoder,
        step=step,
        limit=session.options.eval_limit,
        batch_size=max(1, config.room // (session.world.size * session.options.accumulate)),
        device=session.device,
        world=session.world,
        precision=config.precision,
    )
    book.write_evaluation(row)


def _save(session: Session, book: Logbook, saver: BackgroundSaver, step: int, seen: int, *, draw: bool = True) -> None:
    """Copy everything a checkpoint holds; the first process writes it, and may ``draw``, while training continues."""
    snapshot = take_snapshot(session.model, session.optimizer, session.config, session.world)
    states = session.world.gather(generator_states(session.device))
    if not session.world.is_first:
        return
    meta = {
        **describe(session.config, session.architecture, session.tokenizer),
        "step": step,
        "total_steps": session.total,
        "samples_seen": seen,
        "run_id": session.run_id,
        "pretrained": places_of(session.config.to_json(), session.run),
        "loader": session.loader.state_dict(),
        "guard": session.guard.state(),
        "rng": states,
    }

    def write() -> None:
        save_checkpoint(
            session.run,
            meta=meta,
            weights=snapshot.weights,
            optimizer_state=snapshot.optimizer_state,
            tokenizer=session.tokenizer,
            keep=session.options.keep,
        )
        if draw:
            book.draw()

    saver.start(str(session.run / checkpoint_name(step)), write)


def _say_what_was_left_out(session: Session, book: Logbook, cut: Cut, unlabelled: int) -> None:
    if book.left_out:
        session.console.say(f"{book.left_out} samples were left out; {session.run / LEFT_OUT_NAME} names them")
    if any(cut):
        session.console.say(
            f"cut to fit --max-tokens {session.config.max_tokens}: {cut.context_triplets} context triplets, "
            f"{cut.instructions} instructions; {cut.answers} answers were too long to be learned"
        )
    if unlabelled:
        session.console.say(f"{unlabelled} steps had nothing to learn from and changed nothing")


def _is_multiple(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


_SKIPPED = 2  # first steps are unlike all others: memory is allocated, kernels are chosen


@contextmanager
def traced(steps: int, path: Path | None) -> Iterator[Callable[[], None]]:
    """A function to call after every step; ``steps`` of them, after the first two, are traced into ``path``.

    Nothing is traced with ``steps`` 0 or without a path. A run that ends early leaves a shorter trace.
    """
    if not steps or path is None:
        yield _nothing
        return

    def write(profiler: Any) -> None:
        profiler.export_chrome_trace(str(path))

    activities = supported_activities()  # type: ignore[no-untyped-call]
    plan = schedule(wait=_SKIPPED - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step


def _nothing() -> None:
    return None
