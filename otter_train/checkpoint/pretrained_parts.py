"""Where the pretrained parts of a run lie: folders, which move, or names on the Hub, which do not.

A checkpoint holds each folder twice, by its absolute path and by that relative to the run folder, so it is found from
any working folder, and after it was moved together with the run. Converted weights do the same. A folder that is gone
is never taken for a name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mimicit.errors import UsageError
from otter_train.checkpoint.files import Checkpoint
from otter_train.config.command_line import absolute_path, path_in

PARTS: Final = ("language_model", "vision_model")
"""The options of a run that name pretrained models."""


def places_of(config: Mapping[str, Any], folder: Path) -> dict[str, dict[str, str]]:
    """For each part of ``config`` that is a folder or a file, its absolute path and the one from ``folder``."""
    places = {}
    for name in PARTS:
        source = config.get(name)
        if source is None:
            continue
        path = path_in(absolute_path(source))
        if os.path.exists(path):
            places[name] = {"absolute": path, "relative": os.path.relpath(path, folder.absolute())}
    return places


def find_parts(
    checkpoint: Checkpoint, *, if_gone: Mapping[str, str | None] | None = None, **moved: str | None
) -> dict[str, str | None]:
    """Where the `PARTS` of ``checkpoint`` lie now, by option; ``moved`` names places that take precedence.

    ``if_gone`` names places of parts that are no longer where the checkpoint says. `UsageError` names the part
    that is gone and where it was looked for.
    """
    config: Mapping[str, Any] = checkpoint.meta["config"]
    places: Mapping[str, Mapping[str, str]] = checkpoint.meta.get("pretrained", {})
    found: dict[str, str | None] = {}
    for name in PARTS:
        source: str | None = moved.get(name) or config.get(name)
        if source is not None and moved.get(name) is None and name in places:
            try:
                source = find_part(
                    name, source, places[name], holder=checkpoint.folder, folder=checkpoint.folder.absolute().parent
                )
            except UsageError:
                if if_gone is None or if_gone.get(name) is None:
                    raise
                source = if_gone[name]
        found[name] = source
    return found


def find_part(name: str, source: str, place: Mapping[str, str], *, holder: Path, folder: Path) -> str:
    """Where the part ``name`` lies now: once given as ``source``, in the ``place`` that `places_of` noted.

    ``folder`` is what the relative path begins from. `UsageError` if it is gone; ``holder`` was trained with it.
    """
    candidates = [place["absolute"], os.path.normpath(folder / place["relative"])]
    for path in candidates:
        if os.path.exists(path):
            is_open_clip = ":" in source and path_in(source) != source
            return f"{source.partition(':')[0]}:{path}" if is_open_clip else path
    option = f"--{name.replace('_', '-')}"
    raise UsageError(
        f"{holder}: the {name.replace('_', ' ')} that it was trained with is neither in {' nor in '.join(candidates)}; "
        f"say with {option} where it lies now"
    )
