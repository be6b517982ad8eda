"""Tasks for engines: module-level functions that a worker process can import."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from mimicit.pipeline.engines.local import Engine


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    raise ValueError(f"{number} is refused")


def die_once(marker: Path) -> str:
    """Kill the own process the first time, and live the second."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return marker.name
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def die_if_odd(number: int) -> int:
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class Witness:
    """An engine that notes in which processes the tasks of each stage ran."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.processes: dict[str, set[int]] = {}

    def run(
        self, function: Callable[[Any], Any], tasks: Iterable[Any], *, label: str, on_death: Any = None, **options: Any
    ) -> Iterator[tuple[Any, Any]]:
        noting = partial(_noting_process, function)
        for task, (process, result) in self._engine.run(noting, tasks, label=label, **options):
            self.processes.setdefault(label, set()).add(process)
            yield task, result

    def close(self) -> None:
        self._engine.close()


def _noting_process(function: Callable[[Any], Any], task: Any) -> tuple[int, Any]:
    return os.getpid(), function(task)


def blas_threads(_: None) -> list[int]:
    """How many threads each library for arithmetic of this process may take."""
    return [int(library["num_threads"]) for library in threadpool_info()]
