"""Where the pretrained parts of a run lie: folders, which move, or names on the Hub, which do not.

A checkpoint holds each folder twice, by its absolute path and as seen from the run folder, so it is found from any
working folder, and after it was moved together with the run. Converted weights do the same. A folder that is gone is
never taken for a name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mimicit.errors import UsageError
from otter_train.checkpoint import Checkpoint

__all__ = ["PARTS", "absolute_path", "find_part", "find_parts", "places_of", "same_place"]

PARTS: Final = ("language_model", "vision_model")
"""The options of a run that name pretrained models."""


def absolute_path(source: str) -> str:
    """``source`` as an absolute path where something lies there, else as it is: a name on the Hub, a URL.

    Weights of open_clip may name a file behind their architecture (``ViT-L-14:FILE``).
    """
    architecture, colon, file = source.partition(":")
    if os.path.exists(source):
        return os.path.abspath(source)
    return f"{architecture}:{os.path.abspath(file)}" if colon and os.path.isfile(file) else source


def same_place(one: str | None, other: str | None) -> bool:
    """Whether both name the same folder, file or model."""
    if one is None or other is None:
        return one is other
    return os.path.realpath(absolute_path(one)) == os.path.realpath(absolute_path(other))


def places_of(config: Mapping[str, Any], folder: Path) -> dict[str, dict[str, str]]:
    """For each part of ``config`` that is a folder or a file, its absolute path and the one from ``folder``."""
    places = {}
    for name in PARTS:
        source = config.get(name)
        if source is None:
            continue
        path = _path_in(absolute_path(source))
        if os.path.exists(path):
            places[name] = {"absolute": path, "relative": os.path.relpath(path, folder.absolute())}
    return places


def find_parts(
    checkpoint: Checkpoint, *, if_gone: Mapping[str, str | None] | None = None, **moved: str | None
) -> dict[str, str | None]:
    """Where the `PARTS` of ``checkpoint`` lie now, by option; ``moved`` says it by hand, and is believed.

    ``if_gone`` is believed of those alone that are no longer where the checkpoint says. `UsageError` names the part
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
    """Where the part ``name``, which was called ``source`` and lay in ``place`` as seen from ``folder``, lies now.

    `UsageError` where it is gone: ``holder`` was trained with it.
    """
    candidates = [place["absolute"], os.path.normpath(folder / place["relative"])]
    for path in candidates:
        if os.path.exists(path):
            is_open_clip = ":" in source and _path_in(source) != source
            return f"{source.partition(':')[0]}:{path}" if is_open_clip else path
    option = f"--{name.replace('_', '-')}"
    raise UsageError(
        f"{holder}: the {name.replace('_', ' ')} that it was trained with is neither in {' nor in '.join(candidates)}; "
        f"say with {option} where it lies now"
    )


def _path_in(source: str) -> str:
    """The path of ``source``, which may follow the architecture of open_clip."""
    _, colon, file = source.partition(":")
    return file if colon and not os.path.exists(source) else source
