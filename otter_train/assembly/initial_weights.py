"""Models out of weights that others have trained: as the beginning of a run, instead of random ones, or ready to
answer.

The paper itself begins with OpenFlamingo-9B. From a run, the trained weights and tokenizer of its last checkpoint are
taken; anything else (OpenFlamingo's layout, Otter's, ours, as files and folders) is read as `otter_train.convert` does,
and its rows of the special tokens move to our ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch.distributed.fsdp import FSDPModule
from transformers.initialization import no_init_weights
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError, UsageError
from otter_train.assembly.models import freeze_for, load_kept
from otter_train.checkpoint.files import Checkpoint, is_checkpointed, load_weights, open_checkpoint
from otter_train.checkpoint.meta import check_tokens, find_parts
from otter_train.config.run_config import RunConfig
from otter_train.conversion.completeness import absent_parts, check_complete, frozen_weights
from otter_train.conversion.source import Origin, open_origin, perceiver_of
from otter_train.conversion.token_rows import reordered, special_rows
from otter_train.data.tokenizer import load_tokenizer, special_ids
from otter_train.model import ModelConfig, Otter, TokenIds, build_model, preset, with_pretrained
from otter_train.model.convert import load_neutral
from otter_train.model.lazy import LazyTensor

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
