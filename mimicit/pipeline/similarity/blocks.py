"""Arrays on disk that are filled block by block, in any order, and go on where a killed build stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.progress import Progress

__all__ = ["Filled", "fill", "mapped", "ranges"]

Task = TypeVar("Task")
Filled: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Numbers of rows, and the values of these rows."""

_DONE_SUFFIX: Final = ".done"


def ranges(rows: int, size: int) -> list[tuple[int, int]]:
    """(first, end) of consecutive blocks of ``size`` rows; the last may be shorter."""
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def mapped(path: Path) -> npt.NDArray[Any]:
    """The array at ``path`` for reading, mapped into memory."""
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return array


def fill(
    path: Path,
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    tasks: Sequence[Task],
    function: Callable[[Task], Filled],
    engine: Engine | None,
    progress: Progress,
    label: str,
) -> None:
    """Make the array [rows, columns] at ``path`` of what ``function`` gives for each task.

    Tasks that were finished before are not run again. ``engine`` runs them, or, with ``None``, this process does.
    """
    array = _opened(path, dtype, shape)
    done = _opened(path.with_name(path.name + _DONE_SUFFIX), np.uint8, (len(tasks),))
    todo = [(number, tasks[number]) for number in np.flatnonzero(done == 0).tolist()]
    run = partial(_run_numbered, function)
    results = _here(run, todo) if engine is None else engine.run(run, todo, label=label, progress=progress)
    for count, ((number, _), (rows, values)) in enumerate(results, 1):
        array[rows] = values
        array.flush()  # the values are on disk before the note that says so
        done[number] = 1
        done.flush()
        progress.update(label, count, len(todo))


def _run_numbered(function: Callable[[Task], Filled], task: tuple[int, Task]) -> Filled:
    return function(task[1])


def _here(
    run: Callable[[tuple[int, Task]], Filled], tasks: Iterable[tuple[int, Task]]
) -> Iterator[tuple[tuple[int, Task], Filled]]:
    for task in tasks:
        yield task, run(task)


def _opened(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Any:
    """A new array of zeros, or the one that was begun; it appears whole, so a kill leaves no half of a header."""
    if not path.exists():
        temporary = path.with_name(path.name + ".tmp")
        np.lib.format.open_memmap(temporary, "w+", dtype, shape)
        with open(temporary, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)  # a full disk must not show in the map
        os.replace(temporary, path)
    return np.load(path, mmap_mode="r+")
