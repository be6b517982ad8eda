"""Folders of a language model and of a vision tower as transformers saves them, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from tests.factories.train import TOKENIZER

_LLAMA: Final = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


SMALL_PERCEIVER: Final = {"latents": 4, "perceiver_depth": 1}
"""Options that let a run beside pretrained models cost less than half, where the perceiver is not what is tested."""


def pretrained_folders(place: Path, architecture: Mapping[str, Any] | None = None) -> dict[str, str]:
    """A LLaMA, or another ``architecture``, and a CLIP tower, by the options that name them.

    The tokenizer has no special tokens.
    """
    torch.manual_seed(0)
    words = Tokenizer.from_str(TOKENIZER.backend_tokenizer.to_str().replace("<image>", "<unused>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    shape = {**(architecture or _LLAMA), "vocab_size": len(tokenizer), "max_position_embeddings": 512}
    language = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
    )
    language.save_pretrained(place / "language")
    tokenizer.save_pretrained(place / "language")
    vision.save_pretrained(place / "vision")
    return {"language_model": str(place / "language"), "vision_model": str(place / "vision")}
