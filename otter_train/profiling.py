"""``--profile N``: a trace of N steps that Chrome (chrome://tracing) and Perfetto show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.profiler import profile, schedule, supported_activities

__all__ = ["traced"]

_SKIPPED = 2  # first steps are unlike all others: memory is allocated, kernels are chosen


@contextmanager
def traced(steps: int, path: Path | None) -> Iterator[Callable[[], None]]:
    """A function to call after every step; ``steps`` of them, after the first two, are traced into ``path``.

    Nothing is traced with ``steps`` 0 or without a path. A run that ends early leaves a shorter trace.
    """
    if not steps or path is None:
        yield _nothing
        return

    def write(profiler: Any) -> None:
        profiler.export_chrome_trace(str(path))

    activities = supported_activities()  # type: ignore[no-untyped-call]
    plan = schedule(wait=_SKIPPED - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step


def _nothing() -> None:
    return None
