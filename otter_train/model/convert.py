"""Load the weights of OpenFlamingo and of Otter into a model, and export them; strictly.

Every weight that is missing, unexpected or of another shape is named, by the name it has in the file. For files that
are only to be rewritten, without a model, see `otter_train.convert`. What files hold besides one copy of each weight is
removed and counted first: wrappers, prefixes of training wrappers, tables that follow from the configuration (rotary
frequencies, position ids, causal masks), and copies of layers under a second name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.model.layouts import DEFAULT_DECODER, Layout, arranged, decoder_of, detect_layout, neutral, place_in
from otter_train.model.lazy import LazyTensor, assign
from otter_train.model.otter import Otter

_WRAPPERS: Final = ("model_state_dict", "state_dict", "model")
_STEPS: Final = re.compile(r"^module\.|_orig_mod\.|_checkpoint_wrapped_module\.|_fsdp_wrapped_module\.")
_HEAD: Final = re.compile(r"^model\.(?=(vision|perceiver|language)\.)")  # our model inside of transformers' class
_NO_WEIGHT: Final = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|position_ids)$|gpt_neox\.layers\..*\.attention\.(bias|masked_bias)$"
)


def from_layout(
    model: Otter, state_dict: Mapping[str, Any], layout: Layout | None = None, *, may_lack: Collection[str] = ()
) -> list[str]:
    """Load the weights of a file into ``model``; all of them, or none and `TrainError`.

    ``layout`` is that of the file (None: detect it). Published files often lack the frozen parts: names of ours that
    begin with one of ``may_lack`` (``"vision."``, ``"language.lm."``) need not be there. Returns the names that are
    missing.
    """
    stored = {key: LazyTensor.of(tensor) for key, tensor in unwrapped(state_dict).items()}
    found = neutral_weights(stored, layout)
    return load_neutral(model, found.tensors, found.layout, may_lack=may_lack)


def load_neutral(
    model: Otter, tensors: Mapping[str, LazyTensor], layout: Layout, *, may_lack: Collection[str] = ()
) -> list[str]:
    """`from_layout` of ``tensors`` that have our names already; errors use the names of ``layout``."""
    faults, lacking = misfits(tensors, model, layout, may_lack)
    if faults:
        raise TrainError(f"the weights do not fit the model: {'; '.join(faults)}")
    own = model.state_dict(keep_vars=True)
    for name, tensor in arranged(tensors, "ours", vision=model.vision.layout).items():
        assign(own[name], tensor)
    return lacking


def to_layout(model: Otter, layout: Layout) -> dict[str, Tensor]:
    """The weights of ``model`` under the names of ``layout``; inverse of `from_layout`.

    What has no place there is left out: ``proj`` of open_clip's towers, which Otter does not use either.
    """
    state = neutral_state(model)
    decoder = decoder_of(state, "ours") or DEFAULT_DECODER
    return {key: tensor.read() for key, tensor in arranged(state, layout, decoder=decoder).items()}


def neutral_state(model: Otter) -> dict[str, LazyTensor]:
    """The weights of ``model`` under our names, with transformers' names for its vision tower."""
    state = {name: LazyTensor.of(tensor) for name, tensor in model.state_dict().items()}
    return {name: copies[0] for name, copies in neutral(state, "ours").items()}


def misfits(
    tensors: Mapping[str, LazyTensor], model: Otter, layout: Layout, may_lack: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """Why ``tensors``, under our names, cannot be the weights of ``model``, and the names of weights that they lack.

    The faults use the names of ``layout``. One of two tied embeddings is enough. ``model`` may be on the meta device.
    """
    expected = neutral_state(model)
    decoder = decoder_of(expected, "ours") or DEFAULT_DECODER

    def named(name: str) -> str:
        place = place_in(name, layout, decoder=decoder)
        return name if place is None else place.key

    tied = _names_of_one_weight(model)
    lacking = [name for name in expected if not ({name, *tied.get(name, ())} & tensors.keys())]
    if model.vision.layout == "open_clip" and layout != "openflamingo":  # only these two know its projection
        lacking = [name for name in lacking if place_in(name, layout) is not None or layout == "ours"]
    unneeded = {name for name in tensors if place_in(name, "ours", vision=model.vision.layout) is None}
    needed = dict.fromkeys(named(name) for name in lacking if not name.startswith(tuple(may_lack)))
    faults = [f"{key} is missing" for key in needed]
    faults += [f"{named(name)} is unexpected" for name in sorted(tensors.keys() - expected.keys() - unneeded)]
    faults += [
        f"{named(name)} gives {tensor.shape} for {expected[name].shape}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    return faults, lacking


def _names_of_one_weight(model: Otter) -> dict[str, list[str]]:
    """Each name of a parameter that has several, with all of them."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: same for same in names.values() if len(same) > 1 for name in same}


class NeutralWeights(NamedTuple):
    """Weights under our names, whose vision tower has the names of transformers.

    ``layout`` is the one they were stored in, ``decoder`` the path of the language model's layers (None: no name
    reveals it), ``removed`` counts what was removed.
    """

    tensors: dict[str, LazyTensor]
    layout: Layout
    decoder: str | None
    removed: Counter[str]


def unwrapped(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights inside of a training program's wrapper; `TrainError` if anything but tensors is left."""
    for wrapper in _WRAPPERS:
        if isinstance(state_dict.get(wrapper), Mapping):
            return unwrapped(state_dict[wrapper])
    for key, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise TrainError(f"{key}: a {type(value).__name__} and no tensor; this is no file of weights")
    return state_dict


def neutral_weights(tensors: Mapping[str, LazyTensor], layout: Layout | None = None) -> NeutralWeights:
    """``tensors``, stored in ``layout`` (None: detect it), under our names, each weight once.

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
