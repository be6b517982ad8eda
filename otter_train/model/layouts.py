"""The names of weights: ours, OpenFlamingo's and Otter's (in the style of transformers), and how to translate them.

Our own names, with those of transformers for the vision tower, are the intermediate form: `neutral` translates into
it and `arranged` out of it. Each correspondence is written once, as two templates, and read in both directions. Values
are never touched: a layout that fuses the projections of queries, keys and values holds them one below the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

from mimicit.errors import TrainError
from otter_train.model.lazy import LazyTensor, concatenated, third_of
from otter_train.model.vision import VisionLayout

Layout = Literal["ours", "openflamingo", "otter"]

DEFAULT_DECODER: Final = "model.layers"
"""The path of the decoder layers in a LLaMA and most other language models."""

_PATTERNS: Final = {"i": r"\d+", "rest": r".+", "layers": r"[a-z_]+(?:\.[a-z_]+)*?", "qkv": r"[qkv]", "n": r"[12]"}

# Ours on the left. In each table the first line that matches counts.
_OPEN_CLIP: Final = (
    ("class_embedding", "embeddings.class_embedding"),
    ("conv1.{rest}", "embeddings.patch_embedding.{rest}"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_pre.{rest}", "pre_layrnorm.{rest}"),
    ("ln_post.{rest}", "post_layernorm.{rest}"),
    ("transformer.resblocks.{i}.attn.out_proj.{rest}", "encoder.layers.{i}.self_attn.out_proj.{rest}"),
    ("transformer.resblocks.{i}.ln_{n}.{rest}", "encoder.layers.{i}.layer_norm{n}.{rest}"),
    ("transformer.resblocks.{i}.mlp.c_fc.{rest}", "encoder.layers.{i}.mlp.fc1.{rest}"),
    ("transformer.resblocks.{i}.mlp.c_proj.{rest}", "encoder.layers.{i}.mlp.fc2.{rest}"),
)
_FUSED: Final = ("transformer.resblocks.{i}.attn.in_proj_{rest}", "encoder.layers.{i}.self_attn.{qkv}_proj.{rest}")
_PROJECTION: Final = "vision.visual.proj"
"""CLIP's projection of the class token, which Otter never uses; only towers of open_clip have it."""

_CROSS_ATTENTION: Final = "lang_encoder.{layers}.{i}.gated_cross_attn_layer"
_TABLES: Final[dict[Layout, tuple[tuple[str, str], ...]]] = {
    "ours": (),
    "openflamingo": (
        ("perceiver.layers.{i}.feed_forward.{rest}", "perceiver.layers.{i}.1.{rest}"),
        ("perceiver.layers.{i}.{rest}", "perceiver.layers.{i}.0.{rest}"),
        ("perceiver.{rest}", "perceiver.{rest}"),
        ("language.cross_attention.{i}.feed_forward.{rest}", _CROSS_ATTENTION + ".ff.{rest}"),
        ("language.cross_attention.{i}.{rest}", _CROSS_ATTENTION + ".{rest}"),
        # Layers under a second name; released files of the first version hold both, or this one alone.
        ("language.cross_attention.{i}.feed_forward.{rest}", "lang_encoder.gated_cross_attn_layers.{i}.ff.{rest}"),
        ("language.cross_attention.{i}.{rest}", "lang_encoder.gated_cross_attn_layers.{i}.{rest}"),
        ("language.lm.{layers}.{i}.{rest}", "lang_encoder.{layers}.{i}.decoder_layer.{rest}"),
        ("language.lm.{layers}.{i}.{rest}", "lang_encoder.old_decoder_blocks.{i}.{rest}"),
        ("language.lm.{rest}", "lang_encoder.{rest}"),
        ("vision.model.{rest}", "vision_encoder.{rest}"),  # towers that are not CLIP keep their own names
    ),
    "otter": (
        ("perceiver.{rest}", "perceiver.{rest}"),
        ("language.cross_attention.{i}.{rest}", _CROSS_ATTENTION + ".{rest}"),
        ("language.cross_attention.{i}.{rest}", "lang_encoder.gated_cross_attn_layers.{i}.{rest}"),
        ("language.lm.{layers}.{i}.{rest}", "lang_encoder.{layers}.{i}.decoder_layer.{rest}"),
        ("language.lm.{layers}.{i}.{rest}", "lang_encoder.old_decoder_blocks.{i}.{rest}"),
        ("language.lm.{rest}", "lang_encoder.{rest}"),
        ("vision.model.{rest}", "vision_encoder.vision_model.{rest}"),
        ("vision.model.{rest}", "vision_encoder.{rest}"),  # transformers 5 writes no vision_model
    ),
}
_OWN: Final = re.compile(r"(vision\.model|perceiver|language\.(lm|cross_attention))\.")

# The name of a language model's embedding gives the path of its layers, for files that hold no layers.
_DECODER_OF_EMBEDDING: Final = {
    "gpt_neox.embed_in": "gpt_neox.layers",
    "model.decoder.embed_tokens": "model.decoder.layers",
    "model.embed_tokens": DEFAULT_DECODER,
    "transformer.word_embeddings": "transformer.h",
    "transformer.wte": "transformer.blocks",
}


_MARKS: Final[dict[Layout, str]] = {
    "ours": r"language\.|vision\.",
    "openflamingo": r"perceiver\.layers\.\d+\.[01]\.|.*\.gated_cross_attn_layers?\.(\d+\.)?ff\.",
    "otter": r"perceiver\.layers\.\d+\.[a-z]|.*\.gated_cross_attn_layer\.",
}
"""A pattern for the beginning of a name in each layout; tried in order, as later ones match earlier layouts too."""


class Place(NamedTuple):
    """Where a weight lies in a layout: its key, and which third of that tensor's rows (None: all of it)."""

    key: str
    third: int | None


def detect_layout(keys: Iterable[str]) -> Layout:
    """The layout of ``keys``; `TrainError` if they are not the names of an Otter's weights."""
    names = list(keys)
    for layout, mark in _MARKS.items():
        if any(re.match(mark, name) for name in names):
            return layout
    some = ", ".join(names[:3]) or "none at all"
    raise TrainError(f"these are no weights of an Otter or OpenFlamingo (their names: {some})")


def decoder_of(keys: Iterable[str], layout: Layout) -> str | None:
    """The path of the decoder layers in the language model, such as ``model.layers``; None if no key reveals it."""
    language = "language.lm." if layout == "ours" else "lang_encoder."
    numbered = re.compile(rf"{re.escape(language)}({_PATTERNS['layers']})\.\d+\.")
    found = None
    for key in keys:
        match = numbered.match(key)
        if match and match[1] not in ("old_decoder_blocks", "gated_cross_attn_layers"):
            return match[1]
        path = key.removeprefix(language).rpartition(".")[0]
        if key.startswith(language) and path in _DECODER_OF_EMBEDDING:
            found = _DECODER_OF_EMBEDDING[path]
    return found


def neutral(
    tensors: Mapping[str, LazyTensor], layout: Layout, *, decoder: str = DEFAULT_DECODER
) -> dict[str, list[LazyTensor]]:
    """``tensors`` of ``layout`` under our names; lists, since a file may hold a weight more than once.

    ``decoder`` is the path of the layers, for names without it. `TrainError` lists every name without a place.
    """
    found: dict[str, list[LazyTensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        places = _origin(key, layout, decoder)
        if not places:
            unknown.append(key)
        for name, third in places:
            if third is not None and (not tensor.shape or tensor.shape[0] % 3):
                raise TrainError(f"{key}: {tuple(tensor.shape)} is not made of three parts of equal height")
            found.setdefault(name, []).append(tensor if third is None else third_of(tensor, third))
    if unknown:
        raise TrainError(f"not known in the layout {layout!r}: {'; '.join(f'{key} is unexpected' for key in unknown)}")
    return found


def place_in(
    name: str, layout: Layout, *, vision: VisionLayout = "transformers", decoder: str = DEFAULT_DECODER
) -> Place | None:
    """Where the weight of our ``name`` lies in ``layout``; None if it has no place there.

    ``vision`` is the layout of our tower; OpenFlamingo's is always that of open_clip.
    """
    if name == _PROJECTION:
        projections = {"ours": name if vision == "open_clip" else None, "openflamingo": "vision_encoder.proj"}
        key = projections.get(layout)
        return Place(key, None) if key else None
    inner = name.removeprefix("vision.model.")
    if inner != name and (layout == "openflamingo" or (layout == "ours" and vision == "open_clip")):
        prefix = "vision_encoder." if layout == "openflamingo" else "vision.visual."
        if (place := _in_open_clip(inner)) is not None:
            return Place(prefix + place.key, place.third)
    if layout == "ours":
        return Place(name, None)
    for ours, theirs in _TABLES[layout]:
        if (match := _compiled(ours).fullmatch(name)) is not None:
            return Place(theirs.format(**{"layers": decoder, **match.groupdict()}), None)
    return None


def arranged(
    weights: Mapping[str, LazyTensor],
    layout: Layout,
    *,
    vision: VisionLayout = "transformers",
    decoder: str = DEFAULT_DECODER,
) -> dict[str, LazyTensor]:
    """Inverse of `neutral`: ``weights`` under the names of ``layout``, without those that have no place there.

    `TrainError` if only some of the thirds of a fused weight are there.
    """
    thirds: dict[str, dict[int, LazyTensor]] = {}
    placed: dict[str, LazyTensor] = {}
    for name, tensor in weights.items():
        place = place_in(name, layout, vision=vision, decoder=decoder)
        if place is not None and place.third is None:
            placed[place.key] = tensor
        elif place is not None and place.third is not None:
            placed[place.key] = tensor  # holds the place in the order; replaced below
            thirds.setdefault(place.key, {})[place.third] = tensor
    for key, parts in thirds.items():
        if len(parts) != 3:
            raise TrainError(f"{key}: {3 - len(parts)} of its query, key and value parts are missing")
        if len({(part.dtype, part.shape) for part in parts.values()}) > 1:
            raise TrainError(f"{key}: its query, key and value parts differ in shape or dtype")
        placed[key] = concatenated([parts[0], parts[1], parts[2]])
    return placed


def _origin(key: str, layout: Layout, decoder: str) -> list[Place]:
    """Our names for ``key`` of ``layout``; three for a fused weight."""
    prefix = {"ours": "vision.visual.", "openflamingo": "vision_encoder."}.get(layout)
    if prefix and key.startswith(prefix):
        inner = key.removeprefix(prefix)
        if inner == "proj":
            return [Place(_PROJECTION, None)]
        if places := _out_of_open_clip(inner):
            return [Place(f"vision.model.{name}", third) for name, third in places]
    if layout == "ours":
        return [Place(key, None)] if _OWN.match(key) and not key.startswith("vision.visual.") else []
    for ours, theirs in _TABLES[layout]:
        if (match := _compiled(theirs).fullmatch(key)) is not None:
            return [Place(ours.format(**{"layers": decoder, **match.groupdict()}), None)]
    return []


def _in_open_clip(name: str) -> Place | None:
    fused, split = _FUSED
    if (match := _compiled(split).fullmatch(name)) is not None:
        return Place(fused.format(**match.groupdict()), "qkv".index(match["qkv"]))
    for theirs, ours in _OPEN_CLIP:
        if (match := _compiled(ours).fullmatch(name)) is not None:
            return Place(theirs.format(**match.groupdict()), None)
    return None


def _out_of_open_clip(key: str) -> list[Place]:
    fused, split = _FUSED
    if (match := _compiled(fused).fullmatch(key)) is not None:
        return [Place(split.format(qkv=letter, **match.groupdict()), third) for third, letter in enumerate("qkv")]
    for theirs, ours in _OPEN_CLIP:
        if (match := _compiled(theirs).fullmatch(key)) is not None:
            return [Place(ours.format(**match.groupdict()), None)]
    return []


_COMPILED: Final[dict[str, re.Pattern[str]]] = {}


def _compiled(template: str) -> re.Pattern[str]:
    if template not in _COMPILED:
        pattern = re.escape(template)
        for name, expression in _PATTERNS.items():
            pattern = pattern.replace(rf"\{{{name}\}}", f"(?P<{name}>{expression})")
        _COMPILED[template] = re.compile(pattern)
    return _COMPILED[template]
