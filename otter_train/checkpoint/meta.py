"""What ``meta.json`` of a checkpoint says about its run: options, model and tokens, generators, and its pretrained
parts.

Where the pretrained parts lie: folders, which move, or names on the Hub, which do not. A checkpoint holds each folder
twice, by its absolute path and by that relative to the run folder, so it is found from any working folder, and after it
was moved together with the run. Converted weights do the same. A folder that is gone is never taken for a name.
"""

from __future__ import annotations

import base64
import os
import platform
import random
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError, UsageError
from mimicit.prompt import template_named
from otter_train.checkpoint.files import Checkpoint
from otter_train.config.command_line import absolute_path, path_in
from otter_train.config.run_config import RunConfig
from otter_train.data.tokenizer import special_ids
from otter_train.model import ModelConfig

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")

PARTS: Final = ("language_model", "vision_model")
"""The options of a run that name pretrained models."""


def describe(config: RunConfig, model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The part of ``meta.json`` that stays the same through a run."""
    template = template_named(config.template)
    return {
        "config": config.to_json(),
        "seed": config.seed,
        "model": model.to_json(),
        "template": {
            "name": template.name,
            "version": template.version,
            "before": template.before,
            "between": template.between,
        },
        "special_tokens": special_ids(tokenizer).by_name(),
        "tokenizer": {"class": type(tokenizer).__name__, "vocab_size": len(tokenizer)},
        "versions": {"python": platform.python_version(), **_versions()},
    }


def check_tokens(meta: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """`TrainError` if ``tokenizer`` gives a special token another id than the checkpoint was trained with."""
    trained: Mapping[str, int | None] = meta["special_tokens"]
    for name, id in special_ids(tokenizer).by_name().items():
        if trained[name] != id:
            raise TrainError(f"the tokenizer gives {name} the id {id}, the checkpoint was trained with {trained[name]}")


def seed_generators(seed: int) -> None:
    """Seed the random generators of Python, NumPy, torch and its devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator_states(device: torch.device) -> dict[str, Any]:
    """The states of the generators of Python, NumPy, torch and ``device`` in this process, as JSON values."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    devices = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), *rest],
        "torch": _to_text(torch.get_rng_state()),
        "devices": [_to_text(state) for state in devices],
    }


def restore_generators(states: Mapping[str, Any], device: torch.device) -> None:
    """Inverse of `generator_states`; the generator of another kind of device stays as it is."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_from_text(states["torch"]))
    if device.type == "cuda" and states["devices"]:
        torch.cuda.set_rng_state(_from_text(states["devices"][0]), device)


def _to_text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _from_text(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


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
