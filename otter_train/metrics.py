"""What a run reports: one progress line, ``metrics.csv``, ``eval.csv``, and the loss curve ``loss.png``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

from mimicit.errors import TrainError
from mimicit.shards.files import write_atomically

__all__ = ["Console", "EvalRow", "Row", "Table", "draw_loss", "duration", "progress_line"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of ``metrics.csv``.

    ``loss`` is the mean over the labelled tokens of the steps since the line before, in nats; ``samples`` counts
    from the start of the run; ``gradient_norm`` is that of ``step``, before clipping; ``elapsed_s`` adds up over
    resumed sessions.
    """

    step: int
    samples: int
    loss: float
    lr: float
    gradient_norm: float
    samples_per_s: float
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """One line of ``eval.csv``: the mean loss (nats) over ``labelled`` tokens of ``samples`` held-out samples."""

    step: int
    samples: int
    labelled: int
    loss: float
    perplexity: float


R = TypeVar("R", Row, EvalRow)


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


class Table(Generic[R]):
    """A log: ``rows``, and the same in the CSV file ``path`` (None: in memory only)."""

    def __init__(self, kind: type[R], path: Path | None, *, after_step: int = 0) -> None:
        """Keep the lines of ``path`` up to ``after_step``: what a killed session wrote beyond is computed again."""
        self.path = path
        self.rows: list[R] = []
        if path is not None:
            self.rows = [row for row in _read(kind, path) if row.step <= after_step]
            path.parent.mkdir(parents=True, exist_ok=True)
            header = _line([field.name for field in fields(kind)])
            write_atomically(path, [header, *(_line(astuple(row)) for row in self.rows)])

    def append(self, row: R) -> None:
        """Add one line; it is in the file when this returns."""
        self.rows.append(row)
        if self.path is not None:
            with open(self.path, "ab") as file:
                file.write(_line(astuple(row)))


def draw_loss(rows: Sequence[Row], path: Path, held_out: Sequence[EvalRow] = ()) -> None:
    """The loss over the steps as a PNG, on a logarithmic scale, with the learning rate behind it.

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
    """``step 40/1000  loss 0.873  rate 9.1e-04  85.3 samples/s  4m12s left``."""
    return (
        f"step {row.step}/{total_steps}  loss {row.loss:.3f}  rate {row.lr:.1e}  "
        f"{row.samples_per_s:.1f} samples/s  {duration(left_s)} left"
    )


def duration(seconds: float) -> str:
    """``12s``, ``4m05s``, ``3h20m``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _line(values: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _read(kind: type[R], path: Path) -> list[R]:
    if not path.exists():
        return []
    rows: list[R] = []
    with open(path, newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            try:
                values: dict[str, Any] = {field.name: _number(line[field.name], field.type) for field in fields(kind)}
                rows.append(kind(**values))
            except (KeyError, TypeError, ValueError):
                raise TrainError(
                    f"{path}:{number}: not a line of metrics; move the file away to go on without it"
                ) from None
    return rows


def _number(text: str, kind: object) -> float:
    return int(text) if kind == "int" else float(text)  # annotations are text here
