"""Answers of a trained model: load a checkpoint, read prompts, generate greedily."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.records import Sample
from otter_train.assembly import assemble_model, autocast, load_trained
from otter_train.checkpoint import Checkpoint, load_weights, open_checkpoint
from otter_train.config import Precision, RunConfig
from otter_train.data import collate
from otter_train.distributed import pick_device
from otter_train.encoding import PromptEncoder
from otter_train.model import ModelConfig, Otter
from otter_train.pictures import normalise
from otter_train.provenance import check_tokens
from otter_train.tokenizer import load_tokenizer

__all__ = ["TrainedModel", "answer_each", "load_trained_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model that can be asked, and the checkpoint it came from."""

    checkpoint: Checkpoint
    model: Otter
    tokenizer: PreTrainedTokenizerBase
    encoder: PromptEncoder
    device: torch.device
    precision: Precision


def load_trained_model(
    path: Path, *, device: str = "auto", language_model: str | None = None, vision_model: str | None = None
) -> TrainedModel:
    """The model of a run folder's last checkpoint, or of the checkpoint folder ``path``.

    ``language_model`` and ``vision_model`` say where the frozen weights lie now, if not where they lay in training.
    `TrainError` where the checkpoint is damaged or does not fit.
    """
    checkpoint = open_checkpoint(path)
    place = pick_device(device)
    config = RunConfig.from_json(_moved(checkpoint.meta["config"], language_model, vision_model))
    architecture = ModelConfig.from_json(checkpoint.meta["model"])
    architecture = replace(
        architecture,
        language=replace(architecture.language, pretrained=config.language_model),
        vision=replace(architecture.vision, pretrained=config.vision_model),
    )
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
    check_tokens(checkpoint.meta, tokenizer)
    model = assemble_model(architecture, config, tokenizer, place)
    load_trained(model, load_weights(checkpoint))
    encoder = PromptEncoder(tokenizer, template=config.template, max_tokens=config.max_tokens)
    return TrainedModel(
        checkpoint=checkpoint,
        model=model.eval(),
        tokenizer=tokenizer,
        encoder=encoder,
        device=place,
        precision=config.precision,
    )


def answer_each(
    trained: TrainedModel, samples: Iterable[Sample], *, max_new_tokens: int = 32, batch_size: int = 64
) -> Iterator[tuple[Sample, str]]:
    """Each of ``samples`` with the model's answer to its query; its own answer is not shown to the model."""
    stream = iter(samples)
    while batch := list(islice(stream, batch_size)):
        yield from zip(batch, _answers(trained, batch, max_new_tokens), strict=True)


def _answers(trained: TrainedModel, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
    special = trained.encoder.special
    vision = trained.model.vision
    prompts = [trained.encoder.encode(sample, with_answer=False) for sample in samples]
    batch = collate(prompts, pad=special.pad, image_size=vision.image_size, pad_left=True).to(trained.device)
    with autocast(trained.device, trained.precision):
        rows = trained.model.generate(
            normalise(batch.vision_x, vision.mean, vision.std),
            batch.lang_x,
            batch.attention_mask,
            vision_mask=batch.vision_mask,
            max_new_tokens=max_new_tokens,
            eos_token_ids=(special.eos, special.endofchunk),
        )
    texts: list[str] = [trained.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    return [text.strip() for text in texts]


def _moved(config: dict[str, object], language_model: str | None, vision_model: str | None) -> dict[str, object]:
    moved = {"language_model": language_model, "vision_model": vision_model}
    return {**config, **{name: folder for name, folder in moved.items() if folder is not None}}
