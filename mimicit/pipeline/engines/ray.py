"""Run the tasks of a stage on a Ray cluster, or on one that is started on this machine; results are the same.

Tasks name files by path, so with several nodes ``--src`` and ``--out`` must lie on a file system that all of them
share; and a shard's bytes depend on the libraries that encode it, so every node must have the same versions. Both are
checked on every node before the first task. A worker that dies (the system killed it for its memory, its node went
away) does not end the build: its task is run again in a child process of another worker, and given up, by name, only
if that child dies, too, again and again.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar

from mimicit.errors import BuildError, UsageError
from mimicit.pipeline.engines.local import OnDeath, WorkerDiedError, counted, result_after_death, run_alone
from mimicit.pipeline.stages.media_table import library_versions
from mimicit.progress import Progress
from mimicit.shards.manifest import WORK_NAME
from mimicit.worker import begin_worker

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD_PER_CPU: Final = 4  # tasks handed out before their turn: bounds memory, hides the cost of handing out
_RETRIES_ALONE: Final = 3  # of the worker around the child process: nodes may go away one after the other
_STORE_BYTES: Final = 128 * 1024**2  # of a cluster started here; results are small


class RayEngine:
    """Ray Core tasks on the cluster at ``address``; if None, on ``workers`` processes of this machine.

    The first stage starts Ray or joins it, and `close` leaves it, unless the caller had joined a cluster before.
    ``src`` and ``out`` are the folders that every node must see; paths in tasks must be absolute.
    """

    def __init__(self, workers: int, *, address: str | None = None, src: Path, out: Path) -> None:
        try:
            import ray
        except ImportError:
            raise UsageError("--engine ray: Ray is not installed; pip install 'mimicit[ray]'") from None
        self._ray: Any = ray
        self._workers = max(1, workers)
        self._address = address
        self._src, self._out = src.absolute(), out.absolute()
        self._owns_connection = False
        self._is_ready = False

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._owns_connection:
            self._ray.shutdown()
        self._owns_connection = self._is_ready = False

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
        """See `mimicit.pipeline.engines.local.Engine.run`."""
        self._get_ready(progress)
        try:
            results = self._results(function, iter(tasks), label, on_death, from_start=alone)
            yield from counted(results, label, progress, total)
        except self._ray.exceptions.RayError as error:
            raise BuildError(f"{label}: {_first_line(error)}; run the same command again to go on") from error

    def _results(
        self,
        function: Callable[[Task], Result],
        todo: Iterator[Task],
        label: str,
        on_death: OnDeath[Task, Result] | None,
        *,
        from_start: bool,
    ) -> Iterator[tuple[Task, Result]]:
        once = self._ray.remote(max_retries=0)(_call)
        alone = self._ray.remote(max_retries=_RETRIES_ALONE)(_call_alone)
        # (task, whether it is run alone, how often its process has died then), by the reference to the result.
        pending: dict[Any, tuple[Task, bool, int]] = {}
        try:
            while True:
                room = _AHEAD_PER_CPU * max(1, int(self._ray.cluster_resources().get("CPU", 1))) - len(pending)
                for task in itertools.islice(todo, max(0, room)):
                    started = alone.remote(function, task, label) if from_start else once.remote(function, task)
                    pending[started] = task, from_start, 0
                if not pending:
                    return
                (reference,), _ = self._ray.wait(list(pending), num_returns=1)
                task, was_alone, deaths = pending.pop(reference)
                try:
                    ok, value = self._ray.get(reference)
                except self._deaths():
                    if was_alone:
                        raise
                    pending[alone.remote(function, task, label)] = task, True, 0
                    continue
                if isinstance(value, WorkerDiedError):
                    value = result_after_death(task, value, deaths + 1, on_death)
                    if value is None:
                        pending[alone.remote(function, task, label)] = task, True, deaths + 1
                        continue
                elif not ok:
                    raise value
                yield task, value
        finally:
            for reference in pending:
                self._ray.cancel(reference, force=True)

    def _deaths(self) -> tuple[type[Exception], ...]:
        """The errors of a task whose process, or the node that held its result, is gone."""
        errors = self._ray.exceptions
        return (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.ObjectLostError)

    def _get_ready(self, progress: Progress) -> None:
        if self._is_ready:
            return
        if not self._ray.is_initialized():
            progress.note(f"joining the Ray cluster at {self._address}" if self._address else "starting Ray")
            self._connect()
        self._check_nodes()
        self._is_ready = True

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a build sends no telemetry
        options: dict[str, Any] = {"address": self._address}
        if self._address is None:
            options = {"address": "local", "num_cpus": self._workers, "object_store_memory": _STORE_BYTES}
            options["include_dashboard"] = False
        try:
            self._ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BuildError(
                f"--ray-address {self._address}: cannot join the cluster ({_first_line(error)})"
            ) from error
        self._owns_connection = True

    def _check_nodes(self) -> None:
        """`BuildError` unless every node that may get a task can read a file written here, and has equal versions."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        token = secrets.token_hex(16)
        # A new name, so that no node answers from its cache of the folder; in the work folder, the build clears it.
        path = self._out / WORK_NAME / f"probe-{token}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(token)
        probe = self._ray.remote(max_retries=_RETRIES_ALONE, num_cpus=0)(_probe)
        try:
            nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
            answers = {}
            for node in nodes:
                strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                answers[node["NodeManagerAddress"]] = probe.options(scheduling_strategy=strategy).remote(
                    self._src, path, token, _versions()
                )
            for name, answer in answers.items():
                fault = self._ray.get(answer)
                if fault is not None:
                    raise BuildError(f"node {name} of the Ray cluster {fault}")
        except self._ray.exceptions.RayError as error:
            raise BuildError(f"the nodes of the Ray cluster cannot be checked: {_first_line(error)}") from error
        finally:
            path.unlink(missing_ok=True)


def _call(function: Callable[[Any], Any], task: Any) -> tuple[bool, Any]:
    """(whether it succeeded, the result or the error) of a task; runs in a worker."""
    begin_worker()
    try:
        return True, function(task)
    except Exception as error:  # handed to the build, which raises it
        return False, error


def _call_alone(function: Callable[[Any], Any], task: Any, label: str) -> tuple[bool, Any]:
    """As `_call`, in a child process, whose death does not end the worker; runs in a worker."""
    try:
        return True, run_alone(multiprocessing.get_context("spawn"), function, task, label)
    except Exception as error:  # handed to the build, which raises it
        return False, error


def _versions() -> dict[str, str]:
    return {**library_versions(), "mimicit": version("mimicit")}


def _probe(src: Path, path: Path, token: str, versions: Mapping[str, str]) -> str | None:
    """Why this node cannot take part, in words, or None; runs in a worker."""
    advice = "with several nodes, --src and --out must be on a file system that all of them share"
    if not src.is_dir():
        return f"does not see {src}; {advice}"
    try:
        is_shared = path.read_text() == token
    except OSError:
        is_shared = False
    if not is_shared:
        return f"does not see what is written to {path.parent.parent}; {advice}"
    here = _versions()
    for name in sorted({*versions, *here}):
        there, wanted = here.get(name, "none"), versions.get(name, "none")
        if there != wanted:
            return f"has {name} {there} where this machine has {wanted}; install the same everywhere"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
