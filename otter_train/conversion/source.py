"""Where weights come from: a file, a folder as transformers writes it, or the checkpoint of a training run.

A folder also says which architecture its weights belong to, and has a tokenizer; a bare file says neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from mimicit.errors import TrainError, UsageError
from otter_train.checkpoint import is_checkpointed, open_checkpoint
from otter_train.conversion.published_config import read_published
from otter_train.conversion.weight_files import find_weights, read_weights
from otter_train.inference import load_trained_model
from otter_train.model import ModelConfig, freeze
from otter_train.model.cleaning import neutral_weights
from otter_train.model.convert import neutral_state
from otter_train.model.layouts import Layout
from otter_train.model.lazy import LazyTensor
from otter_train.pretrained.configuration import OtterConfig

__all__ = ["Origin", "open_origin"]

_CONFIG: Final = "config.json"
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Weights by our names, the layout they came in, and what is known about them (None: nothing).

    ``tokenizer`` is a folder. ``template`` names the prompt template they were trained with. ``removed`` counts what
    was no weight of its own.
    """

    tensors: dict[str, LazyTensor]
    layout: Layout
    decoder: str | None
    removed: Counter[str]
    architecture: ModelConfig | None = None
    tokenizer: Path | None = None
    template: str = "otter"


def open_origin(path: Path, layout: Layout | None = None, *, with_frozen: bool = True, **moved: str | None) -> Origin:
    """The weights of ``path``; no tensor of a file is read yet.

    The checkpoint of a run holds what was trained; ``with_frozen`` adds the rest from the folders it names (``moved``:
    ``language_model`` and ``vision_model``, where they lie now). `TrainError` where nothing fitting can be read.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if is_checkpointed(path):
        return _from_checkpoint(path, with_frozen, moved)
    tensors = read_weights(path)
    found = neutral_weights(tensors, layout)
    folder = find_weights(path).parent
    origin = Origin(tensors=found.tensors, layout=found.layout, decoder=found.decoder, removed=found.removed)
    if path.is_dir():
        origin = replace(origin, architecture=_architecture(folder, found.tensors), tokenizer=_tokenizer(folder))
        return replace(origin, template=_template(folder))
    return origin


def _from_checkpoint(path: Path, with_frozen: bool, moved: Mapping[str, str | None]) -> Origin:
    checkpoint = open_checkpoint(path)
    if with_frozen:
        model = load_trained_model(path, device="cpu", **moved).model
        freeze(model, "none")  # writes rows that were trained apart into their matrices
        tensors, removed = neutral_state(model), Counter[str]()
    else:
        stored = read_weights(checkpoint.folder / "model.safetensors")
        if any(key.startswith("new_rows.") for key in stored):
            raise UsageError(f"{path}: trained single rows of the frozen embeddings; convert it --with-frozen")
        tensors, _, _, removed = neutral_weights(stored, "ours")
    architecture = ModelConfig.from_json(checkpoint.meta["model"])
    return Origin(
        tensors=tensors,
        layout="ours",
        decoder=None,
        removed=removed,
        architecture=architecture,
        tokenizer=checkpoint.tokenizer_folder,
        template=str(checkpoint.meta["template"]["name"]),
    )


def _architecture(folder: Path, tensors: Mapping[str, LazyTensor]) -> ModelConfig | None:
    config = _json(folder / _CONFIG)
    if config.get("model_type") != "otter":
        return None
    if "cross_attention" in config and "perceiver" in config and "vision" in config:
        return OtterConfig(**config).to_model_config()
    return read_published(config, tensors, folder / _CONFIG)


def _tokenizer(folder: Path) -> Path | None:
    return folder if any((folder / name).is_file() for name in _TOKENIZERS) else None


def _template(folder: Path) -> str:
    return str(_json(folder / "processor_config.json").get("template", "otter"))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise TrainError(f"{path}: no JSON ({error})") from None
    return value if isinstance(value, dict) else {}
