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
from otter_train.model import ModelConfig, TokenIds, build_model
from otter_train.model.convert import misfits
from otter_train.model.layouts import DEFAULT_DECODER, Layout, place_in
from otter_train.model.lazy import LazyTensor

__all__ = ["EMBEDDINGS", "absent_parts", "check_complete"]

EMBEDDINGS: Final = frozenset(
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
        model = build_model(
            architecture,
            vocab_size=_rows(tensors),
            token_ids=TokenIds(image=0, endofchunk=0, answer=0, pad=0),
            device="meta",
        )
        faults, _ = misfits(tensors, model, layout, absent_parts(tensors))
    else:

        def named(name: str) -> str:
            place = place_in(name, layout, decoder=decoder or DEFAULT_DECODER)
            return name if place is None else place.key

        faults = _structural_faults(tensors, named)
    if faults:
        raise TrainError(f"these weights make no whole Otter: {'; '.join(faults)}")


def absent_parts(tensors: Collection[str]) -> list[str]:
    """The beginnings of the names of the frozen parts that are absent as a whole."""
    parts = []
    if not any(name.startswith("vision.") for name in tensors):
        parts.append("vision.")
    if not any(name.startswith("language.lm.") and name not in EMBEDDINGS for name in tensors):
        parts.append("language.lm.")
    return parts


def _rows(tensors: Mapping[str, LazyTensor]) -> int:
    return max((tensors[name].shape[0] for name in EMBEDDINGS & tensors.keys()), default=1)


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
