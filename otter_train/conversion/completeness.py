"""Whether weights make a whole Otter: against its architecture where that is known, else against each other.

Without an architecture the weights still say a lot: every layer of a stack must have what the others have, and
cross-attention comes at even distances.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from mimicit.errors import TrainError
from otter_train.conversion.frozen import empty_model
from otter_train.model import ModelConfig
from otter_train.model.convert import misfits
from otter_train.model.layouts import DEFAULT_DECODER, Layout, place_in
from otter_train.model.lazy import LazyTensor

__all__ = ["absent_parts", "check_complete", "vocabulary_names", "vocabulary_rows"]

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
"""What has a row for every token of the vocabulary."""

_STACK: Final = re.compile(
    r"(perceiver\.layers|language\.cross_attention|language\.lm\.[a-z_.]+?|vision\.model\.encoder\.layers?)"
    r"\.(\d+)\.(.+)"
)
_ALWAYS: Final = ("perceiver.latents", "perceiver.norm.weight", "perceiver.norm.bias")


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
    """The beginnings of the names of the frozen parts that are absent as a whole."""
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


_last_embeddings: list[tuple[ModelConfig, frozenset[str]]] = []
"""The last configuration that was asked for, and the answer: one model is asked for many times in a row."""


def _embeddings_of(architecture: ModelConfig) -> frozenset[str]:
    """The names of the embeddings of a model, which only the model itself tells: it is built, without numbers."""
    if not _last_embeddings or _last_embeddings[0][0] is not architecture:
        lm = empty_model(architecture, 1).language.lm
        head = lm.get_output_embeddings()
        ids = {id(one) for one in (lm.get_input_embeddings().weight, head.weight, getattr(head, "bias", None))}
        named = lm.named_parameters(remove_duplicate=False)
        found = frozenset(f"language.lm.{name}" for name, one in named if id(one) in ids)
        _last_embeddings[:] = [(architecture, found)]
    return _last_embeddings[0][1]


def vocabulary_rows(tensors: Mapping[str, LazyTensor], architecture: ModelConfig | None = None, least: int = 1) -> int:
    """The rows of the embeddings; ``least`` where there are none."""
    return max((tensors[name].shape[0] for name in vocabulary_names(tensors, architecture)), default=least)


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
    """The places of layers of which ``found`` are some, one every ``step``."""
    return set(range(step - 1, max(found, default=-1) + 1, step)) | set(found)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
