"""The weights that a run begins with instead of random ones: those of another run, or of a published model.

The paper itself begins with OpenFlamingo-9B. From a run, the trained weights and tokenizer of its last checkpoint are
taken; anything else is read as `otter_train.convert` does, and its rows of the special tokens move to our ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.distributed.fsdp import FSDPModule
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError, UsageError
from otter_train.assembly.models import freeze_for, load_kept
from otter_train.checkpoint.files import Checkpoint, is_checkpointed, load_weights, open_checkpoint
from otter_train.checkpoint.meta import check_tokens, find_parts
from otter_train.config.run_config import RunConfig
from otter_train.conversion.completeness import check_complete
from otter_train.conversion.source import open_origin
from otter_train.conversion.token_rows import reordered, special_rows
from otter_train.data.tokenizer import load_tokenizer
from otter_train.model import Otter
from otter_train.model.convert import load_neutral

_INHERITED: Final = (
    "preset",
    "language_model",
    "vision_model",
    "latents",
    "latent_std",
    "perceiver_depth",
    "perceiver_width",
    "cross_attention_every",
    "cross_attention_gate",
    "template",
)
_FROZEN: Final = ("vision.", "language.lm.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Initial:
    """``fill`` copies the weights into a model that was just built; ``tokenizer`` is the one they were trained with.

    ``fits_shards``: the model may already be spread over the processes (`otter_train.assembly.models`), which
    is not so if other weights were trained than will be.
    """

    tokenizer: PreTrainedTokenizerBase
    fill: Callable[[Otter], None]
    fits_shards: bool


def inherited(path: Path, *, language_model: str | None = None, vision_model: str | None = None) -> dict[str, Any]:
    """The options of the run ``path`` that define its model and its prompts; none if ``path`` is no run.

    ``language_model`` and ``vision_model`` say where these lie now, if they have moved.
    """
    if not is_checkpointed(path):
        return {}
    checkpoint = open_checkpoint(path)
    config: Mapping[str, Any] = {
        **checkpoint.meta["config"],
        **find_parts(checkpoint, language_model=language_model, vision_model=vision_model),
    }
    return {name: config[name] for name in _INHERITED if config.get(name) is not None}


def initial_weights(path: Path, config: RunConfig) -> Initial:
    """The weights of ``path``: a run, a checkpoint, or what `otter_train.convert` reads.

    `UsageError` if nothing is there, or no tokenizer tells which row belongs to which token; `TrainError` if it cannot
    be read. ``fill`` raises `TrainError` with every weight that does not fit the model.
    """
    if is_checkpointed(path):
        checkpoint = open_checkpoint(path)
        tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
        check_tokens(checkpoint.meta, tokenizer)
        then = RunConfig.from_json(checkpoint.meta["config"])
        if then.lora_rank:
            raise UsageError(f"--init-from {path}: it holds adapters; otter_train.convert adds them to their weights")
        return Initial(
            tokenizer=tokenizer,
            fill=lambda model: _fill_as_trained(model, tokenizer, checkpoint, then, path),
            fits_shards=config.embeddings != "new_rows" and _trained(then) == _trained(config),
        )
    if config.language_model is None:
        raise UsageError(f"--init-from {path}: name the language model that it belongs to with --language-model")
    folder = Path(config.language_model)
    return Initial(
        tokenizer=load_tokenizer(config.language_model),
        fill=lambda model: _fill_published(model, folder, path),
        fits_shards=config.embeddings != "new_rows",
    )


def _trained(config: RunConfig) -> dict[str, Any]:
    """The options that decide which weights are trained."""
    from_scratch = {name: getattr(config, name) is None for name in ("language_model", "vision_model")}
    thawed = {"train_language": config.train_language, "train_vision": config.train_vision}
    return {"embeddings": config.embeddings, **thawed, **from_scratch}


def _fill_as_trained(
    model: Otter, tokenizer: PreTrainedTokenizerBase, checkpoint: Checkpoint, then: RunConfig, path: Path
) -> None:
    if not isinstance(model, FSDPModule):
        freeze_for(model, then, tokenizer, dtype=torch.float32)
    try:
        load_kept(model, then, load_weights(checkpoint))
    except TrainError as error:
        raise TrainError(f"--init-from {path}: {error}") from None


def _fill_published(model: Otter, language_model: Path, path: Path) -> None:
    origin = open_origin(path)
    try:
        check_complete(origin.tensors, origin.layout, decoder=origin.decoder, architecture=origin.architecture)
        tensors = origin.tensors
        if origin.vocabulary:
            try:
                before = origin.named_rows(origin.tokenizer or language_model)
            except UsageError as error:
                raise UsageError(
                    f"--init-from {path}: {error}, to otter_train.convert; begin from the result"
                ) from None
            tensors = reordered(tensors, origin.vocabulary, before, special_rows(language_model))
        load_neutral(model, tensors, origin.layout, may_lack=_FROZEN)
    except TrainError as error:
        raise TrainError(f"--init-from {path}: {error}") from None
