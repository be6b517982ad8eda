"""Answers of a trained model: load a checkpoint, read prompts, answer them whole or piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal, NamedTuple

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import UsageError
from mimicit.records import Sample
from otter_train.assembly.models import assemble_model, load_kept, stored_model_config, uses_bfloat16
from otter_train.checkpoint.files import is_checkpointed, load_weights, open_checkpoint
from otter_train.checkpoint.meta import check_tokens, find_parts
from otter_train.config.run_config import Precision, RunConfig
from otter_train.data.batches import Batch, collate
from otter_train.data.encoding import Encoded, PromptEncoder
from otter_train.data.tokenizer import load_tokenizer
from otter_train.distributed import pick_device
from otter_train.inference import AnswerOptions
from otter_train.inference.streaming import TextStream, stream_tokens
from otter_train.model import ModelConfig, Otter

Finish = Literal["stop", "length"]
_LONGEST_PROMPT: Final = 2048
"""The most tokens of a prompt if no training run states it: the positions that decoders of published models know."""


class Piece(NamedTuple):
    """More ``text`` of the answer to prompt ``row``, which now has ``tokens`` tokens; ``finish`` with the last piece.

    ``stop``: the model, or a stop text, ended it; ``length``: it reached its ``max_new_tokens``.
    """

    row: int
    text: str
    tokens: int
    finish: Finish | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model that can answer, and where it came from; ``step`` counts its steps if that is a checkpoint."""

    source: Path
    step: int | None
    architecture: ModelConfig
    model: Otter
    tokenizer: PreTrainedTokenizerBase
    encoder: PromptEncoder
    device: torch.device
    precision: Precision


def load_trained_model(
    path: Path, *, device: str = "auto", language_model: str | None = None, vision_model: str | None = None
) -> TrainedModel:
    """The model of a run folder's last checkpoint, of a checkpoint folder, or of weights that `open_origin` reads.

    ``language_model`` and ``vision_model`` say where the frozen weights lie now, if not where they lay in training.
    `TrainError` if the weights are damaged or do not fit, `UsageError` if something about them is not known.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder; models on the Hub are downloaded first: hf download NAME")
    place = pick_device(device)
    if not is_checkpointed(path):
        return _load_weights_of_any_layout(path, place, language_model, vision_model)
    checkpoint = open_checkpoint(path)
    parts = find_parts(checkpoint, language_model=language_model, vision_model=vision_model)
    config = RunConfig.from_json({**checkpoint.meta["config"], **parts})
    architecture = stored_model_config(checkpoint.meta, config)
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
    check_tokens(checkpoint.meta, tokenizer)
    with torch.random.fork_rng(devices=[]):  # random weights are drawn first, to be replaced
        model = assemble_model(architecture, config, tokenizer, place)
    load_kept(model, config, load_weights(checkpoint))
    encoder = PromptEncoder(tokenizer, template=config.template, max_tokens=config.max_tokens)
    return TrainedModel(
        source=checkpoint.folder,
        step=checkpoint.step,
        architecture=architecture,
        model=model.eval(),
        tokenizer=tokenizer,
        encoder=encoder,
        device=place,
        precision=config.precision,
    )


def _load_weights_of_any_layout(
    path: Path, device: torch.device, language_model: str | None, vision_model: str | None
) -> TrainedModel:
    from otter_train.assembly.initial_weights import (
        ready_model,  # conversions are not needed for the checkpoints of runs
    )

    dtype = torch.bfloat16 if uses_bfloat16(device, "auto") else torch.float32
    ready = ready_model(path, dtype=dtype, language_model=language_model, vision_model=vision_model)
    longest = getattr(ready.model.language.lm.config, "max_position_embeddings", None) or _LONGEST_PROMPT
    encoder = PromptEncoder(ready.tokenizer, template=ready.template, max_tokens=min(longest, _LONGEST_PROMPT))
    return TrainedModel(
        source=path,
        step=None,
        architecture=ready.architecture,
        model=ready.model.to(device).eval(),
        tokenizer=ready.tokenizer,
        encoder=encoder,
        device=device,
        precision="auto",
    )


def answer_each(
    trained: TrainedModel, samples: Iterable[Sample], options: AnswerOptions, *, batch_size: int = 64
) -> Iterator[tuple[Sample, str]]:
    """Each of ``samples`` with the model's answer to its query; its own answer is not shown to the model."""
    stream = iter(samples)
    while batch := list(islice(stream, batch_size)):
        prompts = [trained.encoder.encode(sample, with_answer=False) for sample in batch]
        if options.beams > 1:
            texts = _beam_answers(trained, prompts, options)
        else:
            texts = [""] * len(batch)
            for piece in stream_answers(trained, prompts, [options] * len(batch)):
                texts[piece.row] += piece.text
        yield from zip(batch, texts, strict=True)


def stream_answers(
    trained: TrainedModel,
    prompts: Sequence[Encoded],
    options: Sequence[AnswerOptions],
    *,
    stops: Sequence[Sequence[str]] = (),
    is_closed: Callable[[int], bool] = lambda row: False,
) -> Iterator[Piece]:
    """The answers to ``prompts`` (which have none) in pieces, as one batch, by sampling or greedily.

    The last piece of each row says how it ended. ``stops[row]`` are texts that end the answer of a row and are left
    out. A row for which ``is_closed`` is true ends without a last piece.
    """
    batch = _collated(trained, prompts)
    stop = _stop_tokens(trained)
    texts = [TextStream(trained.tokenizer, stops[row] if stops else ()) for row in range(len(prompts))]
    ended: set[int] = set()
    steps = stream_tokens(
        trained.model,
        batch,
        options,
        stop=stop,
        precision=trained.precision,
        is_closed=lambda row: row in ended or is_closed(row),
    )
    for count, tokens in enumerate(steps, 1):
        for row, token in enumerate(tokens):
            if token is None:
                continue
            text = "" if token in stop else texts[row].add(token)
            finish: Finish | None = "stop" if token in stop or texts[row].stopped else None
            if finish is None and count == options[row].max_new_tokens:
                finish = "length"
            if finish is not None:
                ended.add(row)
                text += texts[row].end()
            if text or finish:
                yield Piece(row=row, text=text, tokens=count, finish=finish)


def _beam_answers(trained: TrainedModel, prompts: Sequence[Encoded], options: AnswerOptions) -> list[str]:
    from otter_train.inference.beam_search import search_beams  # transformers' generation takes a second to import

    rows = search_beams(
        trained.model,
        trained.architecture,
        _collated(trained, prompts),
        beams=options.beams,
        max_new_tokens=options.max_new_tokens,
        stop=_stop_tokens(trained),
        precision=trained.precision,
    )
    texts: list[str] = [trained.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    return [text.strip() for text in texts]


def _collated(trained: TrainedModel, prompts: Sequence[Encoded]) -> Batch:
    pad, size = trained.encoder.special.pad, trained.model.vision.image_size
    return collate(prompts, pad=pad, image_size=size, pad_left=True).to(trained.device)


def _stop_tokens(trained: TrainedModel) -> tuple[int, int]:
    return trained.encoder.special.eos, trained.encoder.special.endofchunk
