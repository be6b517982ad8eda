"""What a run reports: a progress line, a table in CSV for each kind of number, and the loss curve ``loss.png``.

The numbers can be sent elsewhere, too (`open_sinks`): to TensorBoard, and to Weights & Biases. A `GrowingFile` grows by
whole pieces; if the disk is full they wait in memory until there is room.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TextIO, TypeVar

from mimicit.errors import TrainError, UsageError
from mimicit.shards.files import write_atomically

_KINDS: Final[dict[str, Callable[[str], Any]]] = {"int": int, "float": float, "str": str}  # annotations are text here

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of ``metrics.csv``; rates are those of all processes since the line before.

    ``loss`` is the mean over the labelled tokens of the steps since the line before, in nats; ``samples`` counts from
    the start of the run; ``gradient_norm`` is that of ``step``, before clipping; ``elapsed_s`` adds up over resumed
    sessions. ``tokens_per_s`` counts text without padding. ``mfu`` is the share of the arithmetic that the devices
    could have done (`otter_train.training.flops`), ``data_wait`` the share of the time that the first process waited
    for data. ``left_out`` counts the steps since the line before that the guard skipped.
    """

    step: int
    samples: int
    loss: float
    lr: float
    gradient_norm: float
    left_out: int
    samples_per_s: float
    tokens_per_s: float
    mfu: float
    data_wait: float
    peak_memory_bytes: int
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """One line of ``sources.csv``: the loss (nats) on ``labelled`` tokens of ``samples`` since the line before."""

    step: int
    source: str
    samples: int
    labelled: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRow:
    """One line of ``gates.csv``: how far the cross-attention before ``layer`` is open, as tanh of its two gates."""

    step: int
    layer: int
    attention: float
    feed_forward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """One line of ``eval.csv``: the mean loss (nats) over ``labelled`` tokens of ``samples`` held-out samples."""

    step: int
    samples: int
    labelled: int
    loss: float
    perplexity: float


class Console:
    """Lines for a person: on a terminal the progress line rewrites itself, elsewhere each is a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._open_line = False

    def say(self, line: str) -> None:
        """Write ``line`` for good."""
        self._write(("\n" if self._open_line else "") + line + "\n")
        self._open_line = False

    def progress(self, line: str) -> None:
        """Write ``line`` in place of the progress line before it."""
        self._open_line = self._stream.isatty()
        self._write(f"\r\x1b[K{line}" if self._open_line else f"{line}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


R = TypeVar("R", Row, EvalRow, SourceRow, GateRow)


class Table(Generic[R]):
    """A log: ``rows``, and the same in the CSV file ``path`` (a `GrowingFile`; None: in memory only)."""

    def __init__(self, kind: type[R], path: Path | None, *, after_step: int = 0) -> None:
        """Keep the lines of ``path`` up to ``after_step``: what a killed session wrote beyond is computed again."""
        self.path = path
        self.rows: list[R] = []
        self._file: GrowingFile | None = None
        if path is not None:
            self.rows = [row for row in read_table(kind, path) if row.step <= after_step]
            path.parent.mkdir(parents=True, exist_ok=True)
            header = _line([field.name for field in fields(kind)])
            write_atomically(path, [header, *(_line(astuple(row)) for row in self.rows)])
            self._file = GrowingFile(path)

    def append(self, *rows: R) -> None:
        """Add lines; they are in the file when this returns, if there is room on the disk."""
        self.rows.extend(rows)
        if self._file is not None:
            self._file.append(b"".join(_line(astuple(row)) for row in rows))


def draw_loss(rows: Sequence[Row], path: Path, held_out: Sequence[EvalRow] = ()) -> None:
    """The loss over the steps as a PNG, on a logarithmic scale, with the learning rate in the background.

    The loss on ``held_out`` samples is drawn as points.
    """
    from matplotlib.figure import Figure  # a second to import, and only needed here; it draws without a screen

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps = [row.step for row in rows]
    rate = axes.twinx()
    rate.fill_between(steps, [row.lr for row in rows], color="0.9")
    rate.set_ylabel("learning rate", color="0.5")
    rate.set_ylim(bottom=0)
    axes.set_zorder(rate.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot(steps, [row.loss for row in rows], linewidth=1.5, label="training")
    if held_out:
        axes.plot([row.step for row in held_out], [row.loss for row in held_out], "o-", label="held out")
        axes.legend()
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss per labelled token (nats)")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomically(path, [image.getvalue()])


def progress_line(row: Row, total_steps: int, left_s: float) -> str:
    """``step 40/1000  loss 0.873  rate 9.1e-04  85.3 samples/s  9.2k tokens/s  mfu 41%  4m12s left``."""
    return (
        f"step {row.step}/{total_steps}  loss {row.loss:.3f}  rate {row.lr:.1e}  {row.samples_per_s:.1f} samples/s  "
        f"{row.tokens_per_s / 1000:.1f}k tokens/s  mfu {row.mfu:.0%}  {duration(left_s)} left"
    )


def duration(seconds: float) -> str:
    """``12s``, ``4m05s``, ``3h20m``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def read_table(kind: type[R], path: Path) -> list[R]:
    """The lines of a table; empty if there is no such file. `TrainError` names a line that is not of this table."""
    if not path.exists():
        return []
    rows: list[R] = []
    with open(path, newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            try:
                values: dict[str, Any] = {
                    field.name: _KINDS[str(field.type)](line[field.name]) for field in fields(kind)
                }
                rows.append(kind(**values))
            except (KeyError, TypeError, ValueError):
                raise TrainError(
                    f"{path}:{number}: not a line of this table; move the file away to go on without it"
                ) from None
    return rows


class Sink(Protocol):
    """Takes the numbers of one line of the log by name."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send ``values`` of ``step``."""

    def close(self) -> None:
        """Send what is still to be sent."""


def open_sinks(
    run: Path, config: Mapping[str, Any], *, run_id: str, tensorboard: bool, wandb: str | None
) -> list[Sink]:
    """The requested sinks; ``wandb`` is the name of a project, ``config`` is shown with its curves.

    A session with the ``run_id`` of an earlier one continues the same curves.

    `UsageError` if the library of a sink is not installed.
    """
    sinks: list[Sink] = []
    if tensorboard:
        sinks.append(_TensorBoard(run / "tensorboard"))
    if wandb is not None:
        sinks.append(_WeightsAndBiases(run, run_id, wandb, config))
    return sinks


class GrowingFile:
    """Appends to the file ``path``, which is made when there is something to append."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size if path.exists() else 0
        self._waiting = b""

    def append(self, data: bytes) -> None:
        """Add ``data``; it is in the file when this returns, if there is room, and never in part."""
        first = not self._waiting
        self._waiting += data
        try:
            with open(self.path, "ab") as file:
                file.write(self._waiting)
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, self._size)
            if first:
                _log.warning("%s: %s; what belongs there waits for room", self.path, error.strerror)
            return
        self._size += len(self._waiting)
        self._waiting = b""


def _line(values: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError("--tensorboard: the library is missing; pip install tensorboard") from None
        self._writer: Any = SummaryWriter(folder)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, run: Path, run_id: str, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise UsageError("--wandb: the library is missing; pip install wandb") from None
        self._run: Any = wandb.init(
            project=project, name=run.name, id=run_id, dir=run, config=dict(config), resume="allow"
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
