"""The weights of the pretrained models that a run trained between, tensor by tensor and as they were stored.

They are read from the files of these models one at a time wherever the names in the files are those of the modules,
as they are for LLaMA and CLIP. Else (experts that transformers joins, tags of open_clip, names on the Hub) that one
model is loaded as a whole, in the dtype it was stored in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mimicit.errors import TrainError
from otter_train.conversion.weight_files import read_weights
from otter_train.model import ModelConfig, Otter, TokenIds, build_model
from otter_train.model.build import grown_rows, load_language, load_vision
from otter_train.model.layouts import neutral
from otter_train.model.lazy import LazyTensor

__all__ = ["empty_model", "frozen_weights", "tied_names"]

_LANGUAGE = "language.lm."
_VISION = "vision."


def empty_model(architecture: ModelConfig, rows: int) -> Otter:
    """The model of ``architecture`` without numbers, for its names and shapes."""
    ids = TokenIds(image=0, endofchunk=0, answer=0, pad=0)
    return build_model(architecture, vocab_size=rows, token_ids=ids, device="meta")


def frozen_weights(architecture: ModelConfig, rows: int) -> dict[str, LazyTensor]:
    """The weights, by our names, of those parts of ``architecture`` that are pretrained; the vocabulary has ``rows``.

    The rows of added tokens are those that training began with.
    """
    empty = empty_model(architecture, rows)
    found: dict[str, LazyTensor] = {}
    if architecture.vision.pretrained is not None:
        found |= _vision(architecture, empty)
    if architecture.language.pretrained is not None:
        found |= _language(architecture, empty, rows)
    return found


def tied_names(model: Otter) -> dict[str, str]:
    """Each name of a parameter with several, and the first of them."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(one), name) for name, one in model.named_parameters(remove_duplicate=False)}


def _vision(architecture: ModelConfig, empty: Otter) -> dict[str, LazyTensor]:
    expected = {f"{_VISION}{name}": tuple(one.shape) for name, one in empty.vision.state_dict().items()}
    stored = _files(architecture.vision.pretrained)
    for prefix in ("", "vision_model."):
        place = {name: prefix + name.removeprefix("vision.model.") for name in expected}
        if all(key in stored and stored[key].shape == expected[name] for name, key in place.items()):
            return {name: stored[key] for name, key in place.items()}
    tower = load_vision(architecture.vision)
    loaded = {f"{_VISION}{name}": LazyTensor.of(tensor) for name, tensor in tower.state_dict().items()}
    return {name: copies[0] for name, copies in neutral(loaded, "ours").items()}


def _language(architecture: ModelConfig, empty: Otter, rows: int) -> dict[str, LazyTensor]:
    lm = empty.language.lm
    matrices = [lm.get_input_embeddings().weight, lm.get_output_embeddings().weight]
    numbers = {id(matrix): number for number, matrix in reversed([*enumerate(matrices)])}
    expected = lm.state_dict(keep_vars=True)
    stored = _files(architecture.language.pretrained)
    first = {name.removeprefix(_LANGUAGE): one.removeprefix(_LANGUAGE) for name, one in tied_names(empty).items()}
    found: dict[str, LazyTensor] = {}
    for name, tensor in expected.items():
        tied = [other for other, one in first.items() if name in first and one == first[name]]
        key = next((key for key in (name, *tied) if key in stored), None)
        if key is None:
            break
        found[name] = stored[key]
        number = numbers.get(id(tensor))
        if number is not None and stored[key].shape[0] < rows:
            found[name] = _grown(stored[key], rows, number)
        if found[name].shape != tuple(tensor.shape):
            break
    else:
        return {f"{_LANGUAGE}{name}": tensor for name, tensor in found.items()}
    loaded = load_language(architecture.language, rows, "auto").state_dict()
    return {f"{_LANGUAGE}{name}": LazyTensor.of(tensor) for name, tensor in loaded.items()}


def _grown(matrix: LazyTensor, rows: int, number: int) -> LazyTensor:
    def read() -> torch.Tensor:
        whole = matrix.read()
        return torch.cat([whole, grown_rows(whole, rows - len(whole), number)])

    return LazyTensor((rows, *matrix.shape[1:]), matrix.dtype, read)


def _files(source: str | None) -> Mapping[str, LazyTensor]:
    """The tensors of a local folder; none where it is no such folder, or one that only transformers can read."""
    if source is None or not Path(source).is_dir():
        return {}
    try:
        return read_weights(Path(source))
    except TrainError:
        return {}
