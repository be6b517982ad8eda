"""From a configuration or a checkpoint to a model on its device, ready to train or to answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError
from otter_train.config.run_config import Precision, RunConfig
from otter_train.data.tokenizer import added_ids, special_ids
from otter_train.model import (
    ModelConfig,
    Otter,
    TokenIds,
    build_model,
    freeze,
    preset,
    trainable_parameters,
    with_pretrained,
)
from otter_train.model.adapters import add_adapters
from otter_train.model.lazy import assign
from otter_train.model.speed import check_quantiser, quantise

_NAMED_AT_MOST = 5


def model_config(config: RunConfig) -> ModelConfig:
    """The architecture that ``config`` asks for."""
    named = with_pretrained(preset(config.preset), language=config.language_model, vision=config.vision_model)
    perceiver = {
        "num_latents": config.latents,
        "latent_std": config.latent_std,
        "depth": config.perceiver_depth,
        "width": config.perceiver_width,
    }
    joint = {
        "cross_attention_every": config.cross_attention_every,
        "cross_attention_gate": config.cross_attention_gate,
    }
    return replace(named, perceiver=replace(named.perceiver, **_given(perceiver)), **_given(joint))


def stored_model_config(meta: Mapping[str, Any], config: RunConfig) -> ModelConfig:
    """The architecture in the ``meta`` of a checkpoint, with its pretrained parts where ``config`` says they lie."""
    stored = ModelConfig.from_json(meta["model"])
    return replace(
        stored,
        language=replace(stored.language, pretrained=config.language_model),
        vision=replace(stored.vision, pretrained=config.vision_model),
    )


def assemble_model(
    architecture: ModelConfig,
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    fill: Callable[[Otter], None] | None = None,
    *,
    empty: bool = False,
) -> Otter:
    """The model on ``device`` with its pretrained weights, and what ``config`` does not train frozen.

    Frozen weights are stored in the precision they are computed in; trained ones are float32 and begin with the exact
    values of their file, or small updates would be rounded away, except with stochastic rounding
    (`otter_train.training.optimizer`). A model from scratch is all of one dtype. ``fill`` may first give the model
    other weights. With ``empty`` there are none yet (see `build_model`), to be read in `read_dtype`.
    """
    check_quantiser(config.quantize_language)
    ids = special_ids(tokenizer)
    computed, trained_dtype = _dtypes(config, device)
    model = build_model(
        architecture,
        vocab_size=len(tokenizer),
        token_ids=TokenIds(image=ids.image, endofchunk=ids.endofchunk, answer=ids.answer, pad=ids.pad),
        dtype=read_dtype(config, device, filled=fill is not None),
        empty=empty,
    )
    if fill is not None:
        fill(model)
    freeze_for(model, config, tokenizer, dtype=trained_dtype)
    for parameter in (*model.vision.parameters(), *model.language.lm.parameters()):
        if not parameter.requires_grad and not trains_everything(config):
            parameter.data = parameter.data.to(computed)
    add_adapters(model, config, dtype=trained_dtype)
    if config.quantize_language:
        quantise(model.language.lm, config.quantize_language, device)
    if computed == torch.bfloat16 and device.type == "cpu":
        _round_before_norms(model)
    return model if empty else model.to(device)


def read_dtype(config: RunConfig, device: torch.device, *, filled: bool = False) -> torch.dtype:
    """The dtype in which pretrained weights are read: that of trained weights if some of them are trained.

    If that is float32, the whole model takes its memory in float32. ``filled`` says that other weights follow.
    """
    computed, trained = _dtypes(config, device)
    trains_matrices = config.train_language or config.train_vision or config.embeddings in ("full", "input_only")
    exact = trains_everything(config) or trains_matrices or (filled and config.embeddings == "new_rows")
    return trained if exact else computed


def _dtypes(config: RunConfig, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """The dtype that weights are computed in, and the one that trained weights are stored in."""
    computed = torch.bfloat16 if uses_bfloat16(device, config.precision) else torch.float32
    return computed, computed if config.stochastic_rounding else torch.float32


def freeze_for(model: Otter, config: RunConfig, tokenizer: PreTrainedTokenizerBase, *, dtype: torch.dtype) -> None:
    """Freeze all of ``model`` but what ``config`` trains, which is cast to ``dtype``."""
    freeze(
        model,
        config.embeddings,
        train_vision=config.vision_model is None or config.train_vision,
        train_language=config.language_model is None or config.train_language,
        added_ids=added_ids(tokenizer),
    )
    for _, parameter in trainable_parameters(model):
        parameter.data = parameter.data.to(dtype)


def trains_everything(config: RunConfig) -> bool:
    """True if no pretrained weights are named: freezing random ones would be pointless."""
    return config.language_model is None and config.vision_model is None


def uses_bfloat16(device: torch.device, precision: Precision) -> bool:
    """``auto`` means bfloat16 on a GPU that has it and float32 elsewhere."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """The context of a forward pass in ``precision``."""
    if not uses_bfloat16(device, precision):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def kept_weights(model: Otter, config: RunConfig) -> dict[str, Tensor]:
    """The parameters by name that a checkpoint holds: the trained ones, and all of a part that starts from scratch.

    Weights that are random and frozen, as embeddings can be, exist nowhere else.
    """
    pretrained = {"vision.": config.vision_model, "language.lm.": config.language_model}
    elsewhere = tuple(prefix for prefix, folder in pretrained.items() if folder is not None)
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or not name.startswith(elsewhere)
    }


def load_kept(model: Otter, config: RunConfig, weights: Mapping[str, Tensor]) -> None:
    """Copy the ``weights`` of a checkpoint into ``model``; `TrainError` names every key or shape that does not fit."""
    own = kept_weights(model, config)
    faults = [f"{name} is missing" for name in sorted(own.keys() - weights.keys())]
    faults += [f"{name} is unknown" for name in sorted(weights.keys() - own.keys())]
    faults += [
        f"{name} has shape {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in sorted(own.keys() & weights.keys())
        if own[name].shape != weights[name].shape
    ]
    if faults:
        more = f" and {len(faults) - _NAMED_AT_MOST} more" if len(faults) > _NAMED_AT_MOST else ""
        raise TrainError(f"the checkpoint does not fit the model: {'; '.join(faults[:_NAMED_AT_MOST])}{more}")
    for name, parameter in own.items():
        assign(parameter, weights[name])


def _round_before_norms(model: Otter) -> None:
    """Let frozen LayerNorms in bfloat16 accept float32, which trained embeddings before them give.

    On a GPU autocast does so; on the CPU torch has no LayerNorm of float32 inputs with bfloat16 weights.
    """
    for module in model.language.lm.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(_rounded)


def _rounded(norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    weight = norm.weight
    if isinstance(weight, Tensor) and weight.dtype == torch.bfloat16:
        return (args[0].to(weight.dtype), *args[1:])
    return None


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
