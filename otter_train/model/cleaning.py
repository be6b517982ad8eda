"""What published files hold besides one copy of each weight, taken off and counted.

Wrappers around the weights, prefixes of training wrappers, tables that follow from the configuration (rotary
frequencies, position ids, causal masks), and copies of layers under a second name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.model.layouts import DEFAULT_DECODER, Layout, decoder_of, detect_layout, neutral
from otter_train.model.lazy import LazyTensor

__all__ = ["NeutralWeights", "neutral_weights", "same_bits", "unwrapped"]

_WRAPPERS: Final = ("model_state_dict", "state_dict", "model")
_STEPS: Final = re.compile(r"^module\.|_orig_mod\.|_checkpoint_wrapped_module\.|_fsdp_wrapped_module\.")
_HEAD: Final = re.compile(r"^model\.(?=(vision|perceiver|language)\.)")  # our model inside of transformers' class
_NO_WEIGHT: Final = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|position_ids)$|gpt_neox\.layers\..*\.attention\.(bias|masked_bias)$"
)


class NeutralWeights(NamedTuple):
    """Weights under our names, whose vision tower has the names of transformers.

    ``layout`` is the one they came in, ``decoder`` where the language model has its layers (None: no name said so),
    ``removed`` counts what was taken off.
    """

    tensors: dict[str, LazyTensor]
    layout: Layout
    decoder: str | None
    removed: Counter[str]


def unwrapped(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights inside of a training program's wrapper; `TrainError` where something else than tensors is left."""
    for wrapper in _WRAPPERS:
        if isinstance(state_dict.get(wrapper), Mapping):
            return unwrapped(state_dict[wrapper])
    for key, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise TrainError(f"{key}: a {type(value).__name__} and no tensor; this is no file of weights")
    return state_dict


def neutral_weights(tensors: Mapping[str, LazyTensor], layout: Layout | None = None) -> NeutralWeights:
    """``tensors`` as they were stored, in ``layout`` (None: look at their names), each weight once.

    `TrainError` lists every name without a place, and every weight whose copies differ in any bit.
    """
    removed: Counter[str] = Counter()
    cleaned: dict[str, LazyTensor] = {}
    for key, tensor in tensors.items():
        name = _HEAD.sub("", _STEPS.sub("", key))
        removed["prefixes of training wrappers"] += name != key
        if _NO_WEIGHT.search(name):
            removed["tables that follow from the configuration"] += 1
        elif name in cleaned:
            raise TrainError(f"{key}: the file also has this weight without its prefix")
        else:
            cleaned[name] = tensor
    found_layout = layout or detect_layout(cleaned)
    decoder = decoder_of(cleaned, found_layout)
    found = neutral(cleaned, found_layout, decoder=decoder or DEFAULT_DECODER)
    removed["copies under a second name"] = sum(len(copies) - 1 for copies in found.values())
    differing = [name for name, copies in found.items() if not all(same_bits(copies[0], copy) for copy in copies[1:])]
    if differing:
        raise TrainError(f"the file holds copies of these weights, and they differ: {'; '.join(differing)}")
    return NeutralWeights({name: copies[0] for name, copies in found.items()}, found_layout, decoder, +removed)


def same_bits(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether both hold the same bits, NaN and the sign of zero included."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    first, second = (tensor.read().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(first, second)
