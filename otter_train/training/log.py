"""The log of a run: each line goes to the console, to the tables of the run folder, and to the sinks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Final

from mimicit.errors import TrainError
from otter_train.config.command_line import EVAL_NAME, GATES_NAME, GUARD_NAME, LEFT_OUT_NAME, METRICS_NAME, SOURCES_NAME
from otter_train.reporting.metrics import (
    Console,
    EvalRow,
    GateRow,
    GrowingFile,
    Row,
    SourceRow,
    Table,
    draw_loss,
    open_sinks,
    progress_line,
)
from otter_train.training.flops import Work
from otter_train.training.guard import BadStep
from otter_train.training.measurements import SourceLoss, Window, gates, peak_memory_bytes
from otter_train.training.session import Session

_SAID: Final = 5  # lines on the console about samples that could not be shown


class Logbook:
    """What has been logged, and where it goes; only the first process writes."""

    def __init__(self, session: Session) -> None:
        run, first = session.run, session.first
        writes = session.world.is_first

        def path(name: str) -> Path | None:
            return run / name if writes else None

        self._session = session
        self.table = Table(Row, path(METRICS_NAME), after_step=first)
        held_out = path(EVAL_NAME) if session.options.eval_shards is not None else None
        self.eval_table = Table(EvalRow, held_out, after_step=first)
        self._sources = Table(SourceRow, path(SOURCES_NAME), after_step=first)
        self._gates = Table(GateRow, path(GATES_NAME), after_step=first)
        self._bad_steps = GrowingFile(run / GUARD_NAME) if writes else None
        self._left_out = LeftOut(session.console, path(LEFT_OUT_NAME))
        self._left_out.add(session.left_out)
        options = session.options
        self._sinks = (
            open_sinks(
                run,
                session.config.to_json(),
                run_id=session.run_id,
                tensorboard=options.tensorboard,
                wandb=options.wandb,
            )
            if writes
            else []
        )

    def close(self) -> None:
        """Close the sinks, which sends what is still to be sent."""
        for sink in self._sinks:
            sink.close()

    def write(self, step: int, window: Window) -> None:
        """The line after ``step``; every process must call it.

        `TrainError` if the guard stops the run, or the loss is not finite and the guard is off.
        """
        session, world = self._session, self._session.world
        elapsed_s = time.perf_counter() - window.started
        bad = window.bad_steps(world)
        for one in bad:
            session.console.say(one.line())
        session.guard.report(bad, self._bad_steps)
        self._left_out.add(window.left_out(world))
        sources = window.source_losses(world, bad)
        row = self._row(step, window, bad, elapsed_s)
        if session.guard.mode == "off" and not math.isfinite(row.loss):
            raise TrainError(
                f"the loss is {row.loss} at step {step}; try a lower --lr, a longer --warmup or --clip 1.0"
            )
        self.table.append(row)
        self._sources.append(*(_source_row(step, source, loss) for source, loss in sources.items()))
        gate_rows = [
            GateRow(step=step, layer=layer, attention=attention, feed_forward=feed_forward)
            for layer, attention, feed_forward in gates(session.model)
        ]
        self._gates.append(*gate_rows)
        self._send(row, sources, gate_rows)
        left_s = (session.total - step) * row.elapsed_s / step
        session.console.progress(progress_line(row, session.total, left_s))

    def write_evaluation(self, row: EvalRow) -> None:
        """A line about held-out samples."""
        self.eval_table.append(row)
        self._session.console.say(
            f"step {row.step}/{self._session.total}  held-out loss {row.loss:.3f}  perplexity {row.perplexity:.2f}"
        )
        for sink in self._sinks:
            sink.log(row.step, {"held_out/loss": row.loss, "held_out/perplexity": row.perplexity})

    @property
    def left_out(self) -> int:
        """How many different samples could not be shown so far."""
        return len(self._left_out.lines)

    def draw(self) -> None:
        """Draw the curve of the loss again."""
        draw_loss(list(self.table.rows), self._session.run / "loss.png", list(self.eval_table.rows))

    def _row(self, step: int, window: Window, bad: list[BadStep], elapsed_s: float) -> Row:
        session = self._session
        work = Work(*session.world.sum_numbers(*astuple(window.work)))
        before = self.table.rows[-1] if self.table.rows else None
        return Row(
            step=step,
            samples=work.samples + (before.samples if before else 0),
            loss=window.loss(session.world),
            lr=float(session.optimizer.param_groups[0]["lr"]),
            gradient_norm=window.gradient_norm,
            left_out=len(bad),
            samples_per_s=work.samples / elapsed_s,
            tokens_per_s=work.tokens / elapsed_s,
            mfu=session.flops.of(work) / elapsed_s / (session.flops_per_s * session.world.size),
            data_wait=window.waited_s / elapsed_s,
            peak_memory_bytes=peak_memory_bytes(session.device),
            elapsed_s=elapsed_s + (before.elapsed_s if before else 0.0),
        )

    def _send(self, row: Row, sources: dict[str, SourceLoss], gate_rows: list[GateRow]) -> None:
        values = {name: float(getattr(row, name)) for name in Row.__slots__ if name != "step"}
        values |= {f"loss/{source}": loss.nats / max(1, loss.labelled) for source, loss in sources.items()}
        for gate in gate_rows:
            values[f"gate/attention/{gate.layer}"] = gate.attention
            values[f"gate/feed_forward/{gate.layer}"] = gate.feed_forward
        for sink in self._sinks:
            sink.log(row.step, values)


class LeftOut:
    """The samples that could not be shown: each is written to the file ``path`` once, the first also to the console."""

    def __init__(self, console: Console, path: Path | None) -> None:
        self._console = console
        self._file = GrowingFile(path) if path else None
        self.lines = set(path.read_text(encoding="utf-8").splitlines()) if path and path.exists() else set()

    def add(self, lines: Iterable[str]) -> None:
        """Record the new ones of ``lines``."""
        for line in dict.fromkeys(lines):
            shown = " ".join(line.split())
            if shown in self.lines:
                continue
            self.lines.add(shown)
            if len(self.lines) <= _SAID:
                self._console.say(f"left out: {shown}")
            if self._file is not None:
                self._file.append(f"{shown}\n".encode(errors="replace"))


@contextmanager
def logbook(session: Session) -> Iterator[Logbook]:
    """A `Logbook` that is closed at the end."""
    book = Logbook(session)
    try:
        yield book
    finally:
        book.close()


def _source_row(step: int, source: str, loss: SourceLoss) -> SourceRow:
    return SourceRow(
        step=step,
        source=source,
        samples=loss.samples,
        labelled=loss.labelled,
        loss=loss.nats / max(1, loss.labelled),
    )
