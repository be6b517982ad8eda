"""A whole model, ready to answer, out of weights in any layout: OpenFlamingo's, Otter's, ours, as files and folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers.initialization import no_init_weights
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError, UsageError
from otter_train.conversion.completeness import absent_parts, check_complete, frozen_weights
from otter_train.conversion.source import Origin, open_origin, perceiver_of
from otter_train.conversion.token_rows import reordered, special_rows
from otter_train.data.tokenizer import load_tokenizer, special_ids
from otter_train.model import ModelConfig, Otter, TokenIds, build_model, preset, with_pretrained
from otter_train.model.convert import load_neutral
from otter_train.model.lazy import LazyTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyModel:
    """A model with all its weights, on the CPU, and what prompts are made with."""

    model: Otter
    architecture: ModelConfig
    tokenizer: PreTrainedTokenizerBase
    template: str


def ready_model(
    path: Path, *, dtype: torch.dtype, language_model: str | None = None, vision_model: str | None = None
) -> ReadyModel:
    """The model of the file or folder ``path``, its frozen parts in ``dtype`` and what joins them in float32.

    What ``path`` lacks comes from ``language_model`` and ``vision_model``: the architecture, the tokenizer, and frozen
    parts. `UsageError` names the option that is needed.
    """
    origin = open_origin(path, language_model=language_model, vision_model=vision_model)
    architecture = _architecture(origin, path, language_model, vision_model)
    origin = replace(origin, architecture=architecture)
    check_complete(origin.tensors, origin.layout, decoder=origin.decoder, architecture=architecture)
    source = origin.tokenizer or origin.found(["language.lm."]).language.pretrained
    if source is None:
        raise UsageError(f"{path}: has no tokenizer; name its language model with --language-model")
    tokenizer = load_tokenizer(source)
    target = special_rows(source)
    tensors = origin.tensors
    if origin.vocabulary:
        tensors = reordered(tensors, origin.vocabulary, origin.named_rows(source), target)
    rows = replace(origin, tensors=tensors).rows(len(tokenizer))
    tensors = {**_absent(replace(origin, tensors=tensors), rows, path), **tensors}
    ids = special_ids(tokenizer)
    with torch.random.fork_rng(devices=[]), no_init_weights():
        model = build_model(
            architecture,
            vocab_size=rows,
            token_ids=TokenIds(image=ids.image, endofchunk=ids.endofchunk, answer=ids.answer, pad=ids.pad),
            dtype=dtype,
            load_weights=False,
        )
    model.language.lm.tie_weights()  # which transformers does only when it also draws weights
    try:
        load_neutral(model, tensors, origin.layout)
    except TrainError as error:
        raise TrainError(f"{path}: {error}") from None
    return ReadyModel(model=model, architecture=architecture, tokenizer=tokenizer, template=origin.template)


def _absent(origin: Origin, rows: int, path: Path) -> dict[str, LazyTensor]:
    """Those frozen parts that ``origin`` lacks as a whole, from the pretrained models."""
    absent = absent_parts(origin.tensors, origin.architecture)
    architecture = origin.found(absent)
    vision = architecture.vision if "vision." in absent else replace(architecture.vision, pretrained=None)
    language = architecture.language if "language.lm." in absent else replace(architecture.language, pretrained=None)
    for part, source in (("vision.", vision.pretrained), ("language.lm.", language.pretrained)):
        if part in absent and source is None:
            option = "--vision-model" if part == "vision." else "--language-model"
            raise UsageError(f"{path}: holds no {part.split('.')[0]} model; name it with {option}")
    return frozen_weights(replace(architecture, vision=vision, language=language), rows) if absent else {}


def _architecture(origin: Origin, path: Path, language_model: str | None, vision_model: str | None) -> ModelConfig:
    """The architecture that the weights state, or else that of the pretrained models that were named."""
    known = origin.architecture
    if known is None:
        if language_model is None or vision_model is None:
            raise UsageError(
                f"{path}: does not say what model it is; name its language model with --language-model and its vision "
                "tower with --vision-model"
            )
        every = min((int(name.split(".")[2]) for name in origin.tensors if "cross_attention." in name), default=3) + 1
        known = replace(preset("otter-9b"), cross_attention_every=every, perceiver=perceiver_of(origin.tensors))
        return with_pretrained(known, language=language_model, vision=vision_model)
    return known  # it states more than the pretrained models do, such as the layout of the tower
