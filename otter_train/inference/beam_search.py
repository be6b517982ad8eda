"""The likeliest answers by beam search, as transformers' ``generate`` does it on the same model."""

from __future__ import annotations

from collections.abc import Collection

import torch

from otter_train.assembly.models import autocast
from otter_train.config.run_config import Precision
from otter_train.data.batches import Batch, normalise
from otter_train.model import ModelConfig, Otter
from otter_train.pretrained.configuration import OtterConfig
from otter_train.pretrained.modeling import OtterForConditionalGeneration


def search_beams(
    model: Otter,
    architecture: ModelConfig,
    prompts: Batch,
    *,
    beams: int,
    max_new_tokens: int,
    stop: Collection[int],
    precision: Precision = "float32",
) -> list[list[int]]:
    """The tokens of the best answer to each of ``prompts``, without the token in ``stop`` that ends it.

    ``architecture`` is that of ``model``. ``prompts`` are padded on the left and lie on its device. The best answer
    is the one with the highest mean log-probability per token.
    """
    rows = model.language.lm.get_input_embeddings().weight.shape[0]
    config = OtterConfig.from_model_config(architecture, vocab_size=rows, token_ids=model.token_ids)
    searcher = OtterForConditionalGeneration.around(model, config).eval()
    with autocast(prompts.lang_x.device, precision):
        found: torch.Tensor = searcher.generate(
            prompts.lang_x,
            normalise(prompts.vision_x, model.vision.mean, model.vision.std),
            prompts.vision_mask,
            attention_mask=prompts.attention_mask,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(stop),
            pad_token_id=model.token_ids.pad,
        )
    return [_until_stop(row, stop) for row in found[:, prompts.lang_x.shape[1] :].tolist()]


def _until_stop(tokens: list[int], stop: Collection[int]) -> list[int]:
    ends = [place for place, token in enumerate(tokens) if token in stop]
    return tokens[: ends[0]] if ends else tokens
