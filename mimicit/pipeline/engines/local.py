"""Run the tasks of a stage on local processes; results do not depend on how many.

A task is a picklable value for a module-level function, and running it twice must do no harm. Tasks are drawn when a
worker is free, so a stage may have any number. A worker that dies (a decoder crashed, the system killed it for its
memory, a user killed it) does not end the build: its task is run again in a process of its own, while no other task
runs. A task is given up, with an error, only if that process dies, too, again and again.

Each worker has a pipe of its own and one task at a time, so its death is seen immediately, whatever it was writing, and
affects no other worker.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from mimicit.errors import BuildError, MimicitError
from mimicit.progress import Progress
from mimicit.worker import apart_from_main, begin_worker, check_processes

Task = TypeVar("Task")
Result = TypeVar("Result")

_CRASHES: Final = 2  # deaths of its own process, after which a task is given up
_KILLS: Final = 6  # the same if others sent the signal: the reason for such kills may last for a while
_SENT_BY_OTHERS: Final = frozenset((signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
_PAUSE_S: Final = 0.1  # before the second attempt; twice as long before each further one


class WorkerDiedError(MimicitError):
    """The process that ran a task ended without a result; ``signal`` is what killed it, if a signal did."""

    def __init__(self, message: str, signal: int | None) -> None:
        super().__init__(message)
        self.signal = signal

    def __reduce__(self) -> tuple[type[WorkerDiedError], tuple[str, int | None]]:
        return type(self), (str(self), self.signal)  # both arguments, so that it can be pickled


OnDeath: TypeAlias = Callable[[Task, WorkerDiedError, int], Result | None]
"""(task, how its process died, how often it has) to a result in its place; None: run it again."""


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
        on_death: OnDeath[Task, Result] | None = None,
        alone: bool = False,
    ) -> Iterator[tuple[Task, Result]]:
        """Yield (task, its result) in any order; ``total`` is the number of tasks, if it is known beforehand.

        An error of ``function`` is raised here. If a task's own process dies, ``on_death`` may return a result in its
        place; a task that is given up without one is a `BuildError`. With ``alone``, every task has a process of its
        own from the start.
        """

    def close(self) -> None:
        """Release what the engine holds."""


def counted(
    results: Iterable[tuple[Task, Result]], label: str, progress: Progress, total: int | None
) -> Iterator[tuple[Task, Result]]:
    """``results`` as they come, each reported to ``progress``, and at the end their number if ``total`` is None."""
    progress.update(label, 0, total)
    done = 0
    for done, pair in enumerate(results, 1):
        progress.update(label, done, total)
        yield pair
    if total is None:
        progress.update(label, done, done)


class LocalEngine:
    """Processes on this machine."""

    def __init__(self, workers: int) -> None:
        check_processes()
        self.workers = max(1, workers)
        # Workers are forked from a clean server process: no threads or locks of this one are copied.
        self._context = multiprocessing.get_context("forkserver")
        # The first `pa.array` of a list imports pandas if it is installed: do that once, in the server.
        self._context.set_forkserver_preload(["mimicit.pipeline.engines.preload"])
        with apart_from_main():
            ensure_running()  # so that it imports while this process does
        self._idle: list[_Worker] = []  # live through all stages
        self._busy: dict[Any, _Worker] = {}  # by their connections

    def close(self) -> None:
        """End the worker processes, also those that are at work."""
        workers = [*self._idle, *self._busy.values()]
        self._idle, self._busy = [], {}
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.end()

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        label: str,
        progress: Progress,
        total: int | None = None,
        on_death: OnDeath[Task, Result] | None = None,
        alone: bool = False,
    ) -> Iterator[tuple[Task, Result]]:
        """See `Engine.run`."""
        results = self._results(function, iter(tasks), label, on_death, alone=alone)
        yield from counted(results, label, progress, total)

    def _results(
        self,
        function: Callable[[Task], Result],
        todo: Iterator[Task],
        label: str,
        on_death: OnDeath[Task, Result] | None,
        *,
        alone: bool,
    ) -> Iterator[tuple[Task, Result]]:
        suspects: deque[Task] = deque(todo if alone else ())  # to be run alone
        busy: dict[Any, Task] = {}
        try:
            while True:
                while suspects and not busy:
                    task = suspects.popleft()
                    yield task, _run_repeatedly(self._context, function, task, label, on_death)
                room = 0 if suspects else self.workers - len(busy)
                for task in itertools.islice(todo, room):
                    worker = self._worker()
                    busy[worker.connection] = task
                    if not worker.begin(function, task):
                        self._busy.pop(worker.connection).end()
                        suspects.append(busy.pop(worker.connection))
                if not busy and not suspects:
                    return
                for connection in wait(list(busy)) if busy else ():
                    task, worker = busy.pop(connection), self._busy.pop(connection)
                    answer = worker.answer()
                    if answer is None:
                        worker.end()
                        suspects.append(task)
                        continue
                    self._idle.append(worker)
                    ok, value = answer
                    if not ok:
                        raise value
                    yield task, value
        finally:
            for connection in self._busy.keys() & busy.keys():  # their results are no longer wanted
                worker = self._busy.pop(connection)
                worker.process.kill()
                worker.end()

    def _worker(self) -> _Worker:
        """A living worker without a task, from now on counted as busy."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                break
            worker.end()
        else:
            worker = _Worker(self._context)
        self._busy[worker.connection] = worker
        return worker


class _Worker:
    """A process that does one task after the other, and this end of the pipe to it."""

    def __init__(self, context: BaseContext) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)  # type: ignore[attr-defined]
        with apart_from_main():
            self.process.start()
        theirs.close()

    def begin(self, function: Callable[[Any], Any], task: Any) -> bool:
        """Hand out a task; returns False if the process has died."""
        try:
            self.connection.send((function, task))
        except OSError:
            return False
        return True

    def answer(self) -> tuple[bool, Any] | None:
        """(whether it succeeded, the result or the error) of the task; None if the process has died."""
        try:
            answer: tuple[bool, Any] = self.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return None
        return answer

    def end(self) -> None:
        """Close the connection, which ends the process, and wait for it."""
        self.connection.close()
        self.process.join()


def _run_repeatedly(
    context: BaseContext,
    function: Callable[[Task], Result],
    task: Task,
    label: str,
    on_death: OnDeath[Task, Result] | None,
) -> Result:
    """The result of ``task``, which is run alone, repeatedly, until it has one or is given up."""
    for deaths in itertools.count(1):
        try:
            return run_alone(context, function, task, label)
        except WorkerDiedError as died:
            result = result_after_death(task, died, deaths, on_death)
            if result is not None:
                return result
            if died.signal in _SENT_BY_OTHERS:
                time.sleep(_PAUSE_S * 2 ** (deaths - 1))
    raise AssertionError("unreachable")


def run_alone(context: BaseContext, function: Callable[[Task], Result], task: Task, label: str) -> Result:
    """The result of ``task`` from a process of its own; `WorkerDiedError` if that ends without one."""
    worker = _Worker(context)
    try:
        answer = worker.answer() if worker.begin(function, task) else None
        if answer is None:
            worker.process.join()
            code = worker.process.exitcode or 0
            why = f"{label}: a worker process ended ({_exit_in_words(code)})"
            raise WorkerDiedError(why, -code if code < 0 else None)
    finally:
        worker.process.kill()
        worker.end()
    ok, value = answer
    if not ok:
        raise value
    result: Result = value
    return result


def is_given_up(died: WorkerDiedError, deaths: int) -> bool:
    """Whether a task is not run again after its own process has died ``deaths`` times."""
    return deaths >= (_KILLS if died.signal in _SENT_BY_OTHERS else _CRASHES)


def result_after_death(
    task: Task, died: WorkerDiedError, deaths: int, on_death: OnDeath[Task, Result] | None
) -> Result | None:
    """What ``on_death`` returns for a task whose own process has died; None: run it again.

    `BuildError` if there is no such result and the task is given up.
    """
    result = None if on_death is None else on_death(task, died, deaths)
    if result is None and is_given_up(died, deaths):
        raise BuildError(f"{died}, {deaths} times; run the same command again to go on") from None
    return result


def _serve(connection: Connection) -> None:
    """Do the tasks that arrive, until the other end is closed."""
    _begin()
    while True:
        try:
            function, task = connection.recv()
        except EOFError:
            return
        try:
            answer = (True, function(task))
        except Exception as error:  # handed to the parent, which raises it
            if not isinstance(error, MimicitError):
                error.add_note("".join(traceback.format_exception(error)))  # the traceback is not pickled
            answer = (False, error)
        connection.send(answer)


def _begin() -> None:
    """Set up a worker: it ends with its parent, so that it does not write on, and leaves Ctrl-C to the parent."""
    begin_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    multiprocessing.current_process().daemon = False  # else it could not start a process of its own to read a table
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
