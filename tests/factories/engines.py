"""The engine of tests that are not about engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from mimicit.pipeline.engines.local import counted
from mimicit.progress import Progress, Silent

Task = TypeVar("Task")
Result = TypeVar("Result")


class InProcess:
    """An `Engine` that runs every task in this process, one after the other.

    It starts no process, and what a test replaces in a module holds in its tasks too. A medium that ends its process
    would end the test: input that is meant to do so wants a `LocalEngine`.
    """

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        label: str = "",
        progress: Progress | None = None,
        total: int | None = None,
        **_: Any,
    ) -> Iterator[tuple[Task, Result]]:
        yield from counted(((task, function(task)) for task in tasks), label, progress or Silent(), total)

    def close(self) -> None:
        pass
