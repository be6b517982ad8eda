"""Run the tasks of a stage on local processes; results do not depend on how many.

A task is a picklable value for a module-level function, and running it twice must do no harm. Tasks are drawn when
there is room for them, so a stage may have any number. A worker that dies (a decoder crashed, the system took its
memory) does not end the build: the tasks it may have held are run again one by one, each in a process of its own, and
only a task that kills its own process is given up, by name.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any, Protocol, TypeVar

from mimicit.build.progress import Progress
from mimicit.errors import BuildError, MimicitError
from mimicit.worker import apart_from_main, begin_worker, check_processes

__all__ = ["Engine", "LocalEngine", "WorkerDiedError", "counted", "result_after_death", "run_alone"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD_PER_WORKER = 4  # tasks handed out before their turn: bounds memory, hides the cost of handing out


class WorkerDiedError(MimicitError):
    """The process that ran a task ended without a result; ``signal`` is what ended it, where one did."""

    def __init__(self, message: str, signal: int | None) -> None:
        super().__init__(message)
        self.signal = signal

    def __reduce__(self) -> tuple[type[WorkerDiedError], tuple[str, int | None]]:
        return type(self), (str(self), self.signal)  # two arguments: crosses process borders whole


class Engine(Protocol):
    """Runs the tasks of a stage somewhere."""

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        label: str,
        progress: Progress,
        total: int | None = None,
        on_death: Callable[[Task, WorkerDiedError], Result] | None = None,
    ) -> Iterator[tuple[Task, Result]]:
        """Yield (task, its result) in any order; ``total`` is the number of tasks, where it is known beforehand.

        An error of ``function`` is raised here. ``on_death`` gives the result of a task whose process died; without
        it that is a `BuildError`.
        """

    def close(self) -> None:
        """Give back what the engine holds."""


def counted(
    results: Iterable[tuple[Task, Result]], label: str, progress: Progress, total: int | None
) -> Iterator[tuple[Task, Result]]:
    """``results`` as they come, each told to ``progress``."""
    progress.update(label, 0, total)
    for done, pair in enumerate(results, 1):
        progress.update(label, done, total)
        yield pair


class LocalEngine:
    """Processes on this machine."""

    def __init__(self, workers: int) -> None:
        check_processes()
        self.workers = max(1, workers)
        # Workers are forked from a clean server process: no threads or locks of this one are copied.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["mimicit.build.run"])
        self._pool: ProcessPoolExecutor | None = None  # lives through all stages

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        label: str,
        progress: Progress,
        total: int | None = None,
        on_death: Callable[[Task, WorkerDiedError], Result] | None = None,
    ) -> Iterator[tuple[Task, Result]]:
        """See `Engine.run`."""
        yield from counted(self._survived(function, iter(tasks), label, on_death), label, progress, total)

    def _survived(
        self,
        function: Callable[[Task], Result],
        todo: Iterator[Task],
        label: str,
        on_death: Callable[[Task, WorkerDiedError], Result] | None,
    ) -> Iterator[tuple[Task, Result]]:
        """All results, with a new pool after each that a worker's death has broken."""
        while True:
            suspects: list[Task] = []
            yield from self._run_pool(function, todo, suspects)
            if not suspects:
                return
            for task in suspects:
                yield task, self._run_alone(function, task, label, on_death)

    def _run_pool(
        self, function: Callable[[Task], Result], todo: Iterator[Task], suspects: list[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Results from a pool; when a worker dies, ``suspects`` receives the tasks that were handed out."""
        pending: dict[Future[Result], Task] = {}  # in the order in which they were handed out
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, mp_context=self._context, initializer=_begin)
            # All start at once: CPython 3.11 may hang when one is started while the death of another breaks the pool.
            self._pool._safe_to_dynamically_spawn_children = False  # type: ignore[attr-defined]
        pool = self._pool
        try:
            while True:
                for task in itertools.islice(todo, self.workers * _AHEAD_PER_WORKER - len(pending)):
                    suspects.append(task)  # until it is known to be handed out
                    with apart_from_main():
                        pending[pool.submit(function, task)] = task
                    suspects.pop()
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    task = pending[future]
                    result = future.result()  # raises BrokenProcessPool for every task that was handed out
                    del pending[future]
                    yield task, result
        except BrokenProcessPool:
            suspects[:0] = pending.values()
            self.close()
        finally:
            for future in pending:
                future.cancel()

    def _run_alone(
        self,
        function: Callable[[Task], Result],
        task: Task,
        label: str,
        on_death: Callable[[Task, WorkerDiedError], Result] | None,
    ) -> Result:
        try:
            return run_alone(self._context, function, task, label)
        except WorkerDiedError as died:
            return result_after_death(task, died, on_death)


def run_alone(context: BaseContext, function: Callable[[Task], Result], task: Task, label: str) -> Result:
    """The result of ``task`` from a process of its own; `WorkerDiedError` where that ends without one."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, task), daemon=True)  # type: ignore[attr-defined]
    with apart_from_main():
        process.start()
    sender.close()
    try:
        ok, value = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        raise WorkerDiedError(
            f"{label}: a worker process ended ({_exit_in_words(code)})", -code if code < 0 else None
        ) from None
    finally:
        receiver.close()
    process.join()
    if not ok:
        raise value
    result: Result = value
    return result


def result_after_death(
    task: Task, died: WorkerDiedError, on_death: Callable[[Task, WorkerDiedError], Result] | None
) -> Result:
    """What stands for the result of a task that has killed its process; a `BuildError` where nothing does."""
    if on_death is None:
        raise BuildError(f"{died}; run the same command again to go on") from None
    return on_death(task, died)


def _call(sender: Connection, function: Callable[[Any], Any], task: Any) -> None:
    _begin()
    try:
        outcome = (True, function(task))
    except Exception as error:  # handed to the parent, which raises it
        outcome = (False, error)
    sender.send(outcome)
    sender.close()


def _begin() -> None:
    """A worker of a killed build must not write on; Ctrl-C is the parent's to handle."""
    begin_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def _exit_in_words(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
