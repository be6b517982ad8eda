"""Whether weights make a whole Otter, and the frozen weights of the pretrained models that a run trained between.

The frozen weights keep the dtype they were stored in. They are read one tensor at a time from the files of these models
if the names in the files are those of the modules, as for LLaMA and CLIP. Otherwise (experts that transformers joins,
tags of open_clip, names on the Hub) that one model is loaded as a whole.

Weights are checked against the architecture if that is known, else against each other: every layer of a stack must have
what the others have, and cross-attention comes at even distances.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

import torch

from mimicit.errors import TrainError
from otter_train.conversion.weight_files import read_weights
from otter_train.model import ModelConfig, Otter, TokenIds, build_model
from otter_train.model.build import grown_rows, load_language, load_vision, new_language
from otter_train.model.config import LanguageConfig
from otter_train.model.convert import misfits
from otter_train.model.layouts import DEFAULT_DECODER, Layout, neutral, place_in
from otter_train.model.lazy import LazyTensor

_LANGUAGE = "language.lm."
_VISION = "vision."

_EMBEDDINGS: Final = frozenset(
    f"language.lm.{name}"
    for name in (
        "embed_out.weight",
        "gpt_neox.embed_in.weight",
        "lm_head.bias",
        "lm_head.weight",
        "model.decoder.embed_tokens.weight",
        "model.embed_tokens.weight",
        "transformer.word_embeddings.weight",
        "transformer.wte.weight",
    )
)
"""Known names of weights with a row for every token of the vocabulary."""

_STACK: Final = re.compile(
    r"(perceiver\.layers|language\.cross_attention|language\.lm\.[a-z_.]+?|vision\.model\.encoder\.layers?)"
    r"\.(\d+)\.(.+)"
)
_ALWAYS: Final = ("perceiver.latents", "perceiver.norm.weight", "perceiver.norm.bias")

_last_embeddings: list[tuple[LanguageConfig, frozenset[str]]] = []
"""Cache of `_embeddings_of` for the last configuration, which is usually needed many times in a row."""


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


def check_complete(
    tensors: Mapping[str, LazyTensor],
    layout: Layout,
    *,
    decoder: str | None,
    architecture: ModelConfig | None,
) -> None:
    """`TrainError` lists everything that is missing, unexpected or of another shape, by its name in ``layout``.

    ``tensors`` have our names. The frozen parts, the vision tower and the language model without its embeddings,
    may be absent as a whole.
    """
    if architecture is not None:
        model = empty_model(architecture, vocabulary_rows(tensors, architecture))
        faults, _ = misfits(tensors, model, layout, absent_parts(tensors, architecture))
    else:

        def named(name: str) -> str:
            place = place_in(name, layout, decoder=decoder or DEFAULT_DECODER)
            return name if place is None else place.key

        faults = _structural_faults(tensors, named)
    if faults:
        raise TrainError(f"these weights make no whole Otter: {'; '.join(faults)}")


def absent_parts(tensors: Collection[str], architecture: ModelConfig | None = None) -> list[str]:
    """The prefixes of the names of frozen parts that are absent as a whole."""
    parts = []
    if not any(name.startswith("vision.") for name in tensors):
        parts.append("vision.")
    language = {name for name in tensors if name.startswith("language.lm.")}
    if not language - vocabulary_names(language, architecture):
        parts.append("language.lm.")
    return parts


def vocabulary_names(tensors: Collection[str], architecture: ModelConfig | None = None) -> set[str]:
    """Which of ``tensors`` have a row for every token of the vocabulary."""
    known = _EMBEDDINGS if architecture is None else _EMBEDDINGS | _embeddings_of(architecture)
    return {name for name in tensors if name in known}


def vocabulary_rows(tensors: Mapping[str, LazyTensor], architecture: ModelConfig | None = None, least: int = 1) -> int:
    """The number of rows of the embeddings; ``least`` if there are no embeddings."""
    return max((tensors[name].shape[0] for name in vocabulary_names(tensors, architecture)), default=least)


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
    """The tensors of a local folder; none if ``source`` is no folder, or one that only transformers can read."""
    if source is None or not Path(source).is_dir():
        return {}
    try:
        return read_weights(Path(source))
    except TrainError:
        return {}


def _embeddings_of(architecture: ModelConfig) -> frozenset[str]:
    """The names of the embeddings of a model, whose language model is built for this on the meta device."""
    config = architecture.language
    if not _last_embeddings or _last_embeddings[0][0] != config:
        with torch.device("meta"):
            lm = new_language(config, 1, torch.float32, load_weights=False)
        head = lm.get_output_embeddings()
        ids = {id(one) for one in (lm.get_input_embeddings().weight, head.weight, getattr(head, "bias", None))}
        named = lm.named_parameters(remove_duplicate=False)
        found = frozenset(f"language.lm.{name}" for name, one in named if id(one) in ids)
        _last_embeddings[:] = [(config, found)]
    return _last_embeddings[0][1]


def _structural_faults(names: Collection[str], named: Callable[[str], str]) -> list[str]:
    indices: dict[str, set[int]] = defaultdict(set)
    inner: dict[str, set[str]] = defaultdict(set)
    for name in names:
        if match := _STACK.fullmatch(name):
            indices[match[1]].add(int(match[2]))
            inner[match[1]].add(match[3])
    expected = set(_ALWAYS)
    for stack in ("perceiver.layers", "language.cross_attention", *indices):
        if not indices[stack]:
            expected.add(f"{stack}.0")
        step = min(indices[stack], default=0) + 1 if stack == "language.cross_attention" else 1
        for index in _even(indices[stack], step):
            expected |= {f"{stack}.{index}.{rest}" for rest in inner[stack]}
    missing = sorted(expected - set(names), key=_natural)
    return [f"{key} is missing" for key in dict.fromkeys(map(named, missing))]


def _even(found: Iterable[int], step: int) -> set[int]:
    """Every ``step``-th place up to the last of ``found``, and all of ``found``."""
    return set(range(step - 1, max(found, default=-1) + 1, step)) | set(found)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
