"""How a build and the tasks of a batch scheduler communicate: through one small file in the work folder.

A build that is to be shared out stops before each of the long stages, encoding and packing, and writes to the file
which stage waits, for how many tasks. Each task does every ``count``-th unit of it, from its own number on, and writes
only files of its own: no table is written by two machines. The next single step collects them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from mimicit.errors import BuildError, UsageError
from mimicit.media import MediaOptions
from mimicit.pipeline.config import BuildConfig, SourceOptions
from mimicit.pipeline.similarity import SimilarOptions
from mimicit.pipeline.stages.filters import FilterConfig
from mimicit.shards.files import write_atomically

SharedStage = Literal["encode", "pack"]

_NAME: Final = "tasks.json"
_NAMED: Final = 10  # tasks in an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The units that task ``index`` (from 0) of ``count`` does."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(f"--task-index: {self.index} is not in 0 to {self.count - 1}, which --task-count asks for")

    def takes(self, number: int) -> bool:
        """Whether unit ``number`` is in this share."""
        return number % self.count == self.index


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingStage:
    """``stage`` of the build of ``src`` with ``config`` waits for ``count`` tasks, which have ``units`` units to do."""

    stage: SharedStage
    count: int
    units: int
    src: str
    config: dict[str, Any]


def wait_for_tasks(
    work: Path, stage: SharedStage, missing: Sequence[int], *, count: int, src: Path, config: BuildConfig
) -> WaitingStage:
    """Make ``stage`` wait for the tasks; ``missing`` are the numbers of the units that are to be done.

    `BuildError` if it waited already; it names the tasks that have left units out.
    """
    previous = read_waiting(work) if (work / _NAME).exists() else None
    if previous is not None and (previous.stage, previous.count) == (stage, count):
        late = sorted({number % count for number in missing})
        which = (
            f"task {late[0]} of {count} has" if len(late) == 1 else f"tasks {_numbers_in_words(late)} of {count} have"
        )
        raise BuildError(
            f"{work.parent}: {which} not finished ({stage}); run the same mimicit build with --task-count {count}"
            f" --task-index {late[0]}{' and so on' if len(late) > 1 else ''}, then mimicit publish again"
        )
    waiting = WaitingStage(
        stage=stage, count=count, units=len(missing), src=str(src.absolute()), config=config.to_json()
    )
    write_atomically(work / _NAME, [orjson.dumps(asdict(waiting))])
    return waiting


def read_waiting(work: Path) -> WaitingStage:
    """What the tasks of this work folder are to do; `BuildError` if no stage waits for tasks."""
    try:
        return WaitingStage(**orjson.loads((work / _NAME).read_bytes()))
    except FileNotFoundError:
        raise BuildError(
            f"{work.parent}: nothing is ready for tasks; first run mimicit build with --task-count and no --task-index"
        ) from None


def config_from_json(value: Mapping[str, Any]) -> BuildConfig:
    """The inverse of `BuildConfig.to_json`."""
    parts = {
        "media": MediaOptions(**value["media"]),
        "filters": FilterConfig(**value["filters"]),
        "similar": SimilarOptions(**value["similar"]),
        "sources": tuple(map(_source_from_json, value["sources"])),
        "allow_root": tuple(value["allow_root"]),
    }
    return BuildConfig(**{**value, **parts})


def _source_from_json(value: Mapping[str, Any]) -> SourceOptions:
    filters = value["filters"]
    return SourceOptions(**{**value, "filters": None if filters is None else FilterConfig(**filters)})


def _numbers_in_words(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_NAMED]))
    return shown if len(numbers) <= _NAMED else f"{shown} and {len(numbers) - _NAMED} more"
