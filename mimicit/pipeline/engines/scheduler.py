"""What a build and the tasks of a batch scheduler tell each other, through one small file in the work folder.

A build that is to be shared out stops where the long stages begin, encoding and packing, and writes down which of them
waits, for how many tasks. Each task does every ``count``-th unit of it, from its own number on, and writes files of its
own alone: no table is written by two machines. The next single step takes them in.
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

__all__ = ["Share", "SharedStage", "WaitingStage", "config_from_json", "read_waiting", "wait_for_tasks"]

SharedStage = Literal["encode", "pack"]

_NAME: Final = "tasks.json"


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
    """``stage`` waits to be done by ``count`` tasks, in ``units`` units, for the build of ``src`` as ``config``."""

    stage: SharedStage
    count: int
    units: int
    src: str
    config: dict[str, Any]


def wait_for_tasks(
    work: Path, stage: SharedStage, missing: Sequence[int], *, count: int, src: Path, config: BuildConfig
) -> WaitingStage:
    """Let ``stage`` wait for the tasks; `BuildError` names those that have left units out, where it waited already.

    ``missing`` are the numbers of the units that are to be done.
    """
    previous = read_waiting(work) if (work / _NAME).exists() else None
    if previous is not None and (previous.stage, previous.count) == (stage, count):
        late = sorted({number % count for number in missing})
        which = f"task {late[0]} of {count} has" if len(late) == 1 else f"tasks {_listed(late)} of {count} have"
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
    """What the tasks of this work folder are to do; `BuildError` where nothing was made ready for them."""
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


def _listed(numbers: Sequence[int], most: int = 10) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most} more"
