"""Load a model that no process holds whole: each copies its own rows of one tensor after the other.

`shard` has spread the parameters while they were empty. Weights of the decoder that a folder of ``.safetensors`` files
holds under its own names are read row by row. Everything else is made as usual, one part after the other (the decoder,
the perceiver, each cross-attention block), and freed when its rows are copied. Random weights are drawn in the order of
`build_model`, so that a seed gives the same model. Beyond its own rows a process needs the memory of the vision tower,
and of the largest tensor of the decoder if that has to grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from mimicit.errors import TrainError
from otter_train.conversion.weight_files import read_weights
from otter_train.distributed import whole
from otter_train.model import ModelConfig, Otter
from otter_train.model.build import grown_rows, new_block, new_language, new_perceiver
from otter_train.model.lazy import LazyTensor, assign, concatenated

_EXACT = (torch.float32, torch.bfloat16, torch.float16)


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
