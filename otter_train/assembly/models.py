"""From a configuration or a checkpoint to a model on its device, ready to train or to answer.

`fill_rows` loads a model that no process holds whole: each copies its own rows of one tensor after the other. `shard`
has spread the parameters while they were empty. Weights of the decoder that a folder of ``.safetensors`` files holds
under its own names are read row by row. Everything else is made as usual, one part after the other (the decoder, the
perceiver, each cross-attention block), and freed when its rows are copied. Random weights are drawn in the order of
`build_model`, so that a seed gives the same model. Beyond its own rows a process needs the memory of the vision tower,
and of the largest tensor of the decoder if that has to grow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError
from otter_train.config.run_config import Precision, RunConfig
from otter_train.conversion.weight_files import read_weights
from otter_train.data.tokenizer import added_ids, special_ids
from otter_train.distributed import whole
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
from otter_train.model.build import grown_rows, new_block, new_language, new_perceiver
from otter_train.model.lazy import LazyTensor, assign, concatenated
from otter_train.model.speed import check_quantiser, quantise

_NAMED_AT_MOST = 5

_EXACT = (torch.float32, torch.bfloat16, torch.float16)


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


@torch.no_grad()
def fill_rows(
    model: Otter,
    config: ModelConfig,
    fill: Callable[[Otter], None] | None = None,
    *,
    vocab_size: int,
    dtype: torch.dtype,
) -> None:
    """Fill the empty parameters of ``model`` as `build_model` would have; every process must call it.

    The weights of the decoder are read in ``dtype``. ``fill`` may then give the model other weights.
    `TrainError` if they cannot be read.
    """
    own = dict(model.named_parameters())
    stored = _stored_language(config, model, vocab_size, dtype)
    for name, tensor in stored.items():
        assign(own[name], tensor)
    for prefix, part in _parts(config, model, vocab_size, dtype, with_language=not stored):
        for name, parameter in part.named_parameters():
            assign(own[f"{prefix}.{name}"], parameter)
    if model.new_rows is not None:
        lm = model.language.lm
        assign(model.new_rows.input, whole(lm.get_input_embeddings().weight)[model.new_rows.ids])
        if model.new_rows.output is not None:
            assign(model.new_rows.output, whole(lm.get_output_embeddings().weight)[model.new_rows.ids])
    if fill is not None:
        fill(model)


def _parts(
    config: ModelConfig, model: Otter, vocab_size: int, dtype: torch.dtype, *, with_language: bool
) -> Iterator[tuple[str, nn.Module]]:
    if with_language:
        yield "language.lm", new_language(config.language, vocab_size, dtype)
    yield "perceiver", new_perceiver(config.perceiver, model.vision.dim)
    for layer in model.language.blocks_by_layer:
        yield f"language.cross_attention.{layer}", new_block(config, model.language.dim, model.perceiver.dim)


def _stored_language(
    config: ModelConfig, model: Otter, vocab_size: int, dtype: torch.dtype
) -> Mapping[str, LazyTensor]:
    """The weights of the pretrained decoder by their names in ``model``; none if no folder holds exactly these.

    Other names, number types or formats are left to transformers.
    """
    folder, lm = config.language.pretrained, model.language.lm
    if folder is None or not Path(folder).is_dir():
        return {}
    try:
        tensors = read_weights(Path(folder))
    except TrainError:
        return {}
    # In this order: if both are one matrix, it counts as the first.
    matrices = [part.weight for part in (lm.get_input_embeddings(), lm.get_output_embeddings())]
    found = {}
    for name, parameter in lm.named_parameters():
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype not in _EXACT:
            return {}
        tensor = tensor.cast(dtype)
        number = next((number for number, matrix in enumerate(matrices) if matrix is parameter), None)
        if number is not None and tensor.shape[0] < vocab_size == parameter.shape[0]:
            tensor = _grown(tensor, vocab_size, number)
        if tensor.shape != parameter.shape:
            return {}
        found[f"language.lm.{name}"] = tensor
    return found


def _grown(matrix: LazyTensor, vocab_size: int, number: int) -> LazyTensor:
    """``matrix`` with the rows that `grown_rows` makes for the tokens that it lacks."""
    count = vocab_size - matrix.shape[0]
    more = LazyTensor((count, *matrix.shape[1:]), matrix.dtype, lambda: grown_rows(matrix.read(), count, number))
    return concatenated([matrix, more])
