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


STAGES = ("scan", "split", "import", "encode", "choose", "pack")
"""The stages that engines run."""

KILLED_IN_EACH = {f"{stage}-{when}" for stage in STAGES for when in ("before", "after")}


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


class Killing:
    """An engine that kills a worker at a task of each stage, and another one that has just done its task.

    ``killed`` has the names of the stages, with ``-before`` and ``-after``; they are noted in ``folder``.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def killed(self) -> set[str]:
        return {path.name for path in self._folder.iterdir()}

    def run(
        self, function: Callable[[Any], Any], tasks: Iterable[Any], *, label: str, **options: Any
    ) -> Iterator[tuple[Any, Any]]:
        dying = partial(_dying_twice, function, self._folder / label)
        return self._engine.run(dying, tasks, label=label, **options)

    def close(self) -> None:
        self._engine.close()


def _dying_twice(function: Callable[[Any], Any], marker: Path, task: Any) -> Any:
    die_once(marker.with_name(f"{marker.name}-before"))
    result = function(task)
    die_once(marker.with_name(f"{marker.name}-after"))
    return result


def blas_threads(_: None) -> list[int]:
    """How many threads each library for arithmetic of this process may take."""
    return [int(library["num_threads"]) for library in threadpool_info()]
