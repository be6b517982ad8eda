"""The log of a run: what is measured between two lines, and each line to the console, the tables of the run and the
sinks.

Sums stay on the device until the line is written.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.config.command_line import EVAL_NAME, GATES_NAME, GUARD_NAME, LEFT_OUT_NAME, METRICS_NAME, SOURCES_NAME
from otter_train.data.micro_batches import Group
from otter_train.distributed import World, whole
from otter_train.model import Otter
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
from otter_train.training.guard import BadSample, BadStep
from otter_train.training.session import Session
from otter_train.training.step import StepResult

_SAID: Final = 5  # lines on the console about samples that could not be shown


class SourceLoss(NamedTuple):
    """``samples`` of a source, and the sum of their loss (nats) over their ``labelled`` tokens."""

    samples: int
    labelled: int
    nats: float


class _Scored(NamedTuple):
    """The samples of one micro-batch; ``nats`` float32 (B,) still lies on the device."""

    step: int
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    labelled: tuple[int, ...]
    nats: Tensor


class Window:
    """The steps since the last line of the log, on this process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started = time.perf_counter()
        self.waited_s = 0.0
        self.work = Work()
        self._results: list[tuple[int, StepResult]] = []
        self._scored: list[_Scored] = []
        self._left_out: list[str] = []

    def add(self, step: int, result: StepResult, group: Group) -> None:
        """Count ``step`` (from 1), which was made of ``group``; the batches themselves are not kept."""
        for batch in group:
            if batch is not None:
                self.work += Work.of(batch)
                self._left_out += batch.left_out
        for batch, nats in result.row_nats:
            self._scored.append(_Scored(step, batch.ids, batch.sources, tuple(batch.labelled_per_sample), nats))
        self._results.append((step, result._replace(row_nats=())))

    def leave_out(self, seconds: float) -> None:
        """Do not count ``seconds`` that were spent on something other than training."""
        self.started += seconds

    @property
    def gradient_norm(self) -> float:
        """The gradient norm of the last step, before clipping."""
        return self._results[-1][1].gradient_norm.item()

    def loss(self, world: World) -> float:
        """The mean over the labelled tokens of all good steps on all processes, in nats.

        0 if no step had labelled tokens, NaN if all steps that had were bad.
        """
        total = torch.zeros((), device=self.device)
        labelled = torch.zeros((), device=self.device)
        for _, result in self._results:
            total += torch.where(result.bad, 0.0, result.loss * result.labelled)
            labelled += torch.where(result.bad, 0, result.labelled)
        world.sum_(total)
        if not any(result.labelled for _, result in self._results):
            return 0.0
        return (total / labelled).item()

    def left_out(self, world: World) -> list[str]:
        """Why samples of these steps were left out, on all processes: a line for each."""
        return [line for lines in world.gather(tuple(self._left_out)) for line in lines]

    def bad_steps(self, world: World) -> list[BadStep]:
        """The steps that the guard left out, with the samples of all processes."""
        verdicts = torch.stack([result.bad for _, result in self._results]).tolist()
        bad = []
        for (step, result), is_bad in zip(self._results, verdicts, strict=True):
            if is_bad:  # on every process, for all of them judge the same norm
                mine = tuple(sample for scored in self._scored if scored.step == step for sample in _samples(scored))
                norm = result.gradient_norm.item()
                finite = norm - norm == 0.0
                bad.append(
                    BadStep(
                        step=step,
                        reason="spike" if finite else "not a number",
                        gradient_norm=norm if finite else None,
                        samples=tuple(sample for part in world.gather(mine) for sample in part),
                    )
                )
        return bad

    def source_losses(self, world: World, bad: Sequence[BadStep]) -> dict[str, SourceLoss]:
        """What all processes have seen of each source in the good steps, by name."""
        left_out = {step.step for step in bad}
        mine: dict[str, SourceLoss] = {}
        for scored in self._scored:
            if scored.step not in left_out:
                for source, labelled, nats in zip(scored.sources, scored.labelled, scored.nats.tolist(), strict=True):
                    _add(mine, source, SourceLoss(1, labelled, nats))
        together: dict[str, SourceLoss] = {}
        for part in world.gather(mine):
            for source, loss in part.items():
                _add(together, source, loss)
        return dict(sorted(together.items()))


def gates(model: Otter) -> list[tuple[int, float, float]]:
    """Layer, tanh(attn_gate) and tanh(ff_gate) of each cross-attention block; every process must call it."""
    blocks = model.language.blocks_by_layer
    attention = torch.cat([whole(block.attn_gate.detach()) for block in blocks.values()]).tanh().tolist()
    feed_forward = torch.cat([whole(block.ff_gate.detach()) for block in blocks.values()]).tanh().tolist()
    return list(zip(blocks, attention, feed_forward, strict=True))


def peak_memory_bytes(device: torch.device) -> int:
    """The peak of memory so far: what torch allocated on the device, or (CPU) that of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _samples(scored: _Scored) -> list[BadSample]:
    means = [nats / max(1, labelled) for nats, labelled in zip(scored.nats.tolist(), scored.labelled, strict=True)]
    return [
        BadSample(id=id, source=source, loss=mean if mean - mean == 0.0 else None)
        for id, source, mean in zip(scored.ids, scored.sources, means, strict=True)
    ]


def _add(totals: dict[str, SourceLoss], source: str, more: SourceLoss) -> None:
    before = totals.get(source, SourceLoss(0, 0, 0.0))
    totals[source] = SourceLoss(before.samples + more.samples, before.labelled + more.labelled, before.nats + more.nats)


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
