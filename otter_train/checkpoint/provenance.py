"""What a checkpoint says about the run that wrote it, and the states of the random generators."""

from __future__ import annotations

import base64
import platform
import random
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError
from mimicit.prompt import template_named
from otter_train.config.run_config import RunConfig
from otter_train.data.tokenizer import special_ids
from otter_train.model import ModelConfig

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")


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
