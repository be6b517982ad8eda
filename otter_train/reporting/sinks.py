"""Where the numbers of the log can be sent besides the run folder: TensorBoard, and Weights & Biases.

And a file that only grows, by whole pieces; where the disk is full they wait in memory until there is room.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mimicit.errors import UsageError

__all__ = ["GrowingFile", "Sink", "open_sinks"]

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes the numbers of one line of the log by name."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send ``values`` of ``step``."""

    def close(self) -> None:
        """Send what is still to be sent."""


def open_sinks(
    run: Path, config: Mapping[str, Any], *, run_id: str, tensorboard: bool, wandb: str | None
) -> list[Sink]:
    """The sinks that are asked for; ``wandb`` is the name of a project, ``config`` is shown beside its curves.

    A session with the ``run_id`` of an earlier one goes on in the same curves.

    `UsageError` where a library for it is not installed.
    """
    sinks: list[Sink] = []
    if tensorboard:
        sinks.append(_TensorBoard(run / "tensorboard"))
    if wandb is not None:
        sinks.append(_WeightsAndBiases(run, run_id, wandb, config))
    return sinks


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


class GrowingFile:
    """Appends to the file ``path``, which is made when there is something to append."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size if path.exists() else 0
        self._waiting = b""

    def append(self, data: bytes) -> None:
        """Add ``data``; it is in the file when this returns, if there is room. Never a part of it is."""
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
