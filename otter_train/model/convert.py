"""To and from OpenFlamingo's checkpoints, strictly: every key that is missing, unexpected or of another shape is named.

One map serves both directions: `openflamingo_place` says where each of our weights lies in their file. Their vision
tower is in open_clip's layout, with one fused ``in_proj`` per attention; ours may have that of transformers, with three
projections. Their files may also hold what is no weight of its own: copies of layers under a second name, a wrapper
around the weights, prefixes of training wrappers, rotary frequencies and position ids.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.model.otter import Otter
from otter_train.model.vision import VisionLayout

__all__ = ["Place", "load_openflamingo", "openflamingo_place", "to_openflamingo"]

_WRAPPERS: Final = ("model_state_dict", "state_dict", "model")
_WRAPPER_STEPS: Final = re.compile(r"(^module\.|_orig_mod\.|_checkpoint_wrapped_module\.|_fsdp_wrapped_module\.)")
_NO_WEIGHT: Final = re.compile(r"(^|\.)(inv_freq|position_ids)$")
_COPIES: Final = (
    (
        re.compile(r"^lang_encoder\.gated_cross_attn_layers\.(\d+)\."),
        r"lang_encoder.model.layers.\1.gated_cross_attn_layer.",
    ),
    (re.compile(r"^lang_encoder\.old_decoder_blocks\.(\d+)\."), r"lang_encoder.model.layers.\1.decoder_layer."),
)
_NOT_IN_TRANSFORMERS: Final = "vision_encoder.proj"  # CLIP's projection of the class token, which Otter does not use

# The first pattern that matches one of our keys gives its name in OpenFlamingo.
_RENAMES: Final = tuple(
    (re.compile(rf"^{ours}$"), theirs)
    for ours, theirs in (
        (r"perceiver\.layers\.(\d+)\.feed_forward\.(.+)", r"perceiver.layers.\1.1.\2"),
        (r"perceiver\.layers\.(\d+)\.(.+)", r"perceiver.layers.\1.0.\2"),
        (r"(perceiver\..+)", r"\1"),
        (
            r"language\.cross_attention\.(\d+)\.feed_forward\.(.+)",
            r"lang_encoder.model.layers.\1.gated_cross_attn_layer.ff.\2",
        ),
        (r"language\.cross_attention\.(\d+)\.(.+)", r"lang_encoder.model.layers.\1.gated_cross_attn_layer.\2"),
        (r"language\.lm\.model\.layers\.(\d+)\.(.+)", r"lang_encoder.model.layers.\1.decoder_layer.\2"),
        (r"language\.lm\.(.+)", r"lang_encoder.\1"),
        (r"vision\.visual\.(.+)", r"vision_encoder.\1"),
        (r"vision\.model\.embeddings\.class_embedding", r"vision_encoder.class_embedding"),
        (r"vision\.model\.embeddings\.patch_embedding\.weight", r"vision_encoder.conv1.weight"),
        (r"vision\.model\.embeddings\.position_embedding\.weight", r"vision_encoder.positional_embedding"),
        (r"vision\.model\.pre_layrnorm\.(.+)", r"vision_encoder.ln_pre.\1"),
        (r"vision\.model\.post_layernorm\.(.+)", r"vision_encoder.ln_post.\1"),
        (
            r"vision\.model\.encoder\.layers\.(\d+)\.self_attn\.[qkv]_proj\.(.+)",
            r"vision_encoder.transformer.resblocks.\1.attn.in_proj_\2",
        ),
        (
            r"vision\.model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.(.+)",
            r"vision_encoder.transformer.resblocks.\1.attn.out_proj.\2",
        ),
        (r"vision\.model\.encoder\.layers\.(\d+)\.layer_norm(.+)", r"vision_encoder.transformer.resblocks.\1.ln_\2"),
        (
            r"vision\.model\.encoder\.layers\.(\d+)\.mlp\.fc1\.(.+)",
            r"vision_encoder.transformer.resblocks.\1.mlp.c_fc.\2",
        ),
        (
            r"vision\.model\.encoder\.layers\.(\d+)\.mlp\.fc2\.(.+)",
            r"vision_encoder.transformer.resblocks.\1.mlp.c_proj.\2",
        ),
    )
)
_FUSED: Final = re.compile(r"^vision\.model\..*\.self_attn\.([qkv])_proj\.")


class Place(NamedTuple):
    """Where a weight lies in an OpenFlamingo file: its key, and which third of that tensor (None: all of it)."""

    key: str
    third: int | None


def openflamingo_place(key: str) -> Place:
    """The `Place` of our state-dict key; `TrainError` if OpenFlamingo has nothing like it."""
    for pattern, theirs in _RENAMES:
        if match := pattern.match(key):
            fused = _FUSED.match(key)
            return Place(match.expand(theirs), "qkv".index(fused[1]) if fused else None)
    raise TrainError(f"{key}: no such weight in OpenFlamingo")


def load_openflamingo(model: Otter, state_dict: Mapping[str, Any], *, may_lack: Collection[str] = ()) -> list[str]:
    """Load the weights of an OpenFlamingo file into ``model``; all of them, or none and `TrainError`.

    Published files often lack the frozen parts: ``may_lack`` are the beginnings of our keys that need not be there
    (``"vision."``, ``"language.lm."``). Returns the keys that were lacking.
    """
    theirs = _cleaned(state_dict, model.vision.layout)
    ours = model.state_dict(keep_vars=True)
    places = {key: openflamingo_place(key) for key in ours}
    found = {key: _part(theirs[place.key], place) for key, place in places.items() if place.key in theirs}
    shared = {id(ours[key]) for key in found}  # tied embeddings have two names and may be stored under one
    lacking = [key for key in ours if key not in found and id(ours[key]) not in shared]
    missing = [f"{places[key].key} is missing" for key in lacking if not key.startswith(tuple(may_lack))]
    unexpected = [f"{key} is unexpected" for key in sorted(set(theirs) - {place.key for place in places.values()})]
    misshapen = [
        f"{places[key].key} gives {tuple(tensor.shape)} for {tuple(ours[key].shape)}"
        for key, tensor in found.items()
        if tensor.shape != ours[key].shape
    ]
    faults = [*missing, *unexpected, *misshapen]
    if faults:
        raise TrainError(f"the OpenFlamingo weights do not fit the model: {'; '.join(faults)}")
    with torch.no_grad():
        for key, tensor in found.items():
            ours[key].copy_(tensor)
    return lacking


def to_openflamingo(model: Otter) -> dict[str, Tensor]:
    """The weights of ``model`` under OpenFlamingo's keys; inverse of `load_openflamingo`.

    A vision tower of transformers has no ``vision_encoder.proj``; OpenFlamingo does not use it either.
    """
    thirds: dict[str, dict[int, Tensor]] = {}
    for key, tensor in model.state_dict().items():
        place = openflamingo_place(key)
        thirds.setdefault(place.key, {})[place.third or 0] = tensor
    return {
        key: parts[0] if len(parts) == 1 else torch.cat([parts[0], parts[1], parts[2]]) for key, parts in thirds.items()
    }


def _part(tensor: Tensor, place: Place) -> Tensor:
    return tensor if place.third is None else tensor.chunk(3)[place.third]


def _cleaned(state_dict: Mapping[str, Any], layout: VisionLayout) -> dict[str, Tensor]:
    """The weights of a file, each under one name; `TrainError` where two copies of one weight differ."""
    for wrapper in _WRAPPERS:
        if isinstance(state_dict.get(wrapper), Mapping):
            state_dict = state_dict[wrapper]
    cleaned: dict[str, Tensor] = {}
    for name, tensor in _weights(state_dict):
        if layout == "transformers" and name == _NOT_IN_TRANSFORMERS:
            continue
        if name in cleaned and not torch.equal(cleaned[name], tensor):
            raise TrainError(f"{name}: the file holds two copies of this weight, and they differ")
        cleaned[name] = tensor
    return cleaned


def _weights(state_dict: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    for key, value in state_dict.items():
        name = _WRAPPER_STEPS.sub("", key)
        for pattern, primary in _COPIES:
            name = pattern.sub(primary, name)
        if _NO_WEIGHT.search(name):
            continue
        if not isinstance(value, Tensor):
            raise TrainError(f"{key}: a {type(value).__name__} and no tensor; this is no OpenFlamingo file")
        yield name, value
