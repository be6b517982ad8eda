"""Vision-language models of transformers with random weights and few of them, each with the processor of its family.

Nothing is downloaded: the tokenizer is made here, image processors have their default settings but for the size, and
the chat templates are written in the shape of each family's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["FAMILIES", "family"]

_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}
_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
_WORDS = ["What is thing 12 in picture 3? It is thing 12.", "own user assistant word word model", "a cat on the sofa"]

_LIST = "{% for part in m.content %}{% if part.type == 'image' %}IMAGE{% elif part.type == 'video' %}VIDEO{% else %}{{ part.text }}{% endif %}{% endfor %}"  # noqa: E501
_CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n" + _LIST + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _template(text: str, image: str, video: str = "") -> str:
    return text.replace("IMAGE", image).replace("VIDEO", video)


def tokenizer(tokens: list[str], **named: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with ``tokens`` as control tokens, and those that have a name."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator(_WORDS, trainer)
    extra = {name: named.pop(name) for name in list(named) if name not in ("bos_token", "eos_token", "pad_token")}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **named, extra_special_tokens=extra)
    made.add_special_tokens({"additional_special_tokens": tokens})
    return made


def qwen2_5_vl() -> tuple[Any, Any]:
    words = tokenizer(
        ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=size),
        tokenizer=words,
        video_processor=transformers.Qwen2VLVideoProcessor(size=size),
        chat_template=_template(
            _CHATML, "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
        ),
    )
    config = transformers.Qwen2_5_VLConfig(
        text_config={**_TEXT, "vocab_size": len(words), "rope_parameters": _MROPE},
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        **_ids(words, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>",
               vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>"),
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def _ids(words: PreTrainedTokenizerFast, **named: str) -> dict[str, int]:
    return {name: words.convert_tokens_to_ids(token) for name, token in named.items()}


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {"qwen2_5_vl": qwen2_5_vl}


def family(name: str) -> tuple[Any, Any]:
    """The model and the processor of a family, one of `FAMILIES`."""
    torch.manual_seed(0)
    return FAMILIES[name]()
