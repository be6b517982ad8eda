"""Checkpoints are written in the background: one thread, one checkpoint at a time.

If the disk is full or gone, that checkpoint is lost with a warning; the earlier ones are intact and training
continues. Only if the last checkpoint of a run cannot be written does the run end with an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from mimicit.errors import TrainError

__all__ = ["BackgroundSaver"]

_log = logging.getLogger(__name__)


class BackgroundSaver:
    """Runs jobs that write files, in the order in which they are given; a context manager that waits at its end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: Future[None] | None = None
        self._what = ""

    def start(self, what: str, job: Callable[[], None]) -> None:
        """Run ``job``, which writes ``what``, in the background, once the job before it has ended."""
        if (error := self._ended()) is not None:
            _log.warning("%s; training goes on, and the checkpoints before it are intact", self._complaint(error))
        self._what = what
        self._job = self._pool.submit(job)

    def finish(self) -> None:
        """Wait for the last job; `TrainError` where it could not write its files."""
        if (error := self._ended()) is not None:
            raise TrainError(
                f"{self._complaint(error)}; make room and give the same command again: it goes on from the last "
                "complete checkpoint"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)

    def _ended(self) -> OSError | None:
        job, self._job = self._job, None
        try:
            if job is not None:
                job.result()
        except OSError as error:
            return error
        return None

    def _complaint(self, error: OSError) -> str:
        return f"{self._what} could not be written ({error.strerror or error})"
