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

torch.set_num_threads(1)  # models this small lose more to waiting threads than they gain

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

_PARTS = (
    "{% for part in m.content %}{% if part.type == 'image' %}IMAGE{% elif part.type == 'video' %}VIDEO"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}"
)
_CHATML = (  # adds a system message of its own, as Qwen's
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are of help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n" + _PARTS + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_UTTERANCES = (  # one start for all, roles as words, as Idefics 3's
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}"
    "{% if m.content[0].type == 'image' %}:{% else %}: {% endif %}" + _PARTS + "<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_INSTRUCTIONS = (  # in brackets that are no tokens, as Mistral's
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] " + _PARTS + " [/INST]"
    "{% elif m.role == 'system' %}<<SYS>>\n" + _PARTS + "\n<</SYS>>\n\n"
    "{% else %} " + _PARTS + "</s>{% endif %}{% endfor %}"
)
_GEMMA = (  # strips texts, and writes the system message into the first turn
    "<bos>{% if messages[0].role == 'system' %}{% set first = messages[0].content[0].text + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first }}"
    + _PARTS.replace("part.text", "part.text | trim")
    + "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_LLAMA = (  # writes the day, and strips
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: {{ strftime_now('%d %b %Y') }}\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content[0].text | trim }}{% set messages = messages[1:] %}"
    "{% endif %}<|eot_id|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    + _PARTS.replace("part.text", "part.text | trim")
    + "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_COLONS = (  # roles as words, texts stripped, no end of turn at all, as LLaVA 1.5's
    "{% for m in messages %}{{ m.role | upper }}: " + _PARTS.replace("part.text", "part.text | trim") + " {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
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


_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def _ids(words: PreTrainedTokenizerFast, **named: str) -> dict[str, Any]:
    return {name: words.convert_tokens_to_ids(token) for name, token in named.items()}


def _text(words: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    ends = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**_TEXT, "vocab_size": len(words), **ends, **more}


_QWEN = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_QWEN_TEMPLATE = _template(
    _CHATML, "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
)


def qwen2_5_vl() -> tuple[Any, Any]:
    words = tokenizer(_QWEN, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=size),
        tokenizer=words,
        video_processor=transformers.Qwen2VLVideoProcessor(size=size),
        chat_template=_QWEN_TEMPLATE,
    )
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text(words, rope_parameters=_MROPE),
        vision_config={**vision, "fullatt_block_indexes": [0]},
        **_ids(words, **_QWEN_IDS),
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    words = tokenizer(_QWEN, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    size = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=size, patch_size=16),
        tokenizer=words,
        video_processor=transformers.Qwen3VLVideoProcessor(size={**size, "longest_edge": 4 * 64 * 64}),
        chat_template=_template(
            _QWEN_TEMPLATE.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>"), ""
        ),
    )
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen3VLConfig(
        text_config=_text(words, rope_parameters=_MROPE),
        vision_config={**vision, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        **_ids(words, **_QWEN_IDS),
    )
    return transformers.Qwen3VLForConditionalGeneration(config), processor


def idefics3() -> tuple[Any, Any]:
    words = tokenizer(
        ["<|im_start|>", "<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
        + [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)],
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    processor = transformers.Idefics3Processor(
        image_processor=transformers.Idefics3ImageProcessor(
            size={"longest_edge": 48}, max_image_size={"longest_edge": 32}
        ),
        tokenizer=words,
        image_seq_len=4,
        chat_template=_template(_UTTERANCES, "<image>"),
    )
    config = transformers.Idefics3Config(
        text_config={**_text(words), "model_type": "llama"},
        vision_config={**_VISION, "image_size": 32, "patch_size": 8},
        scale_factor=2,
        **_ids(words, image_token_id="<image>"),
    )
    return transformers.Idefics3ForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    words = tokenizer(["<|im_start|>", "<image>", "<video>"], eos_token="<|im_end|>", pad_token="<|endoftext|>")
    pins, size = [[32, 32], [32, 64], [64, 32]], {"height": 32, "width": 32}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pins),
        tokenizer=words,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_template(_CHATML, "<image>", "<video>"),
    )
    config = transformers.LlavaOnevisionConfig(
        text_config={**_text(words), "model_type": "qwen2"},
        vision_config={**_VISION, "model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8},
        image_grid_pinpoints=pins,
        **_ids(words, image_token_index="<image>", video_token_index="<video>"),
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def llava_next() -> tuple[Any, Any]:
    words = tokenizer(["<image>"], bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    pins = [[32, 32], [32, 64], [64, 32]]
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=pins
        ),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template(_INSTRUCTIONS, "<image>\n"),
    )
    config = transformers.LlavaNextConfig(
        text_config={**_text(words), "model_type": "mistral"},
        vision_config={
            **_VISION, "num_hidden_layers": 2, "model_type": "clip_vision_model", "image_size": 32, "patch_size": 8,
            "projection_dim": 32,
        },
        image_grid_pinpoints=pins,
        **_ids(words, image_token_index="<image>"),
    )  # fmt: skip
    return transformers.LlavaNextForConditionalGeneration(config), processor


def llava() -> tuple[Any, Any]:
    words = tokenizer(["<image>"], bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template(_COLONS, "<image>\n"),
    )
    vision = {**_VISION, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8, "projection_dim": 32}
    config = transformers.LlavaConfig(
        text_config={**_text(words), "model_type": "llama"},
        vision_config={**vision, "model_type": "clip_vision_model"},
        **_ids(words, image_token_index="<image>"),
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    words = tokenizer(
        ["<|im_start|>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    size = {"height": 32, "width": 32}
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=size, max_patches=2),
        tokenizer=words,
        video_processor=transformers.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=_template(_CHATML, "<IMG_CONTEXT>\n", "<video>\n"),
    )
    config = transformers.InternVLConfig(
        text_config={**_text(words), "model_type": "qwen2"},
        vision_config={**_VISION, "image_size": [32, 32], "patch_size": [8, 8]},
        image_seq_length=4,
        **_ids(words, image_token_id="<IMG_CONTEXT>"),
    )
    return transformers.InternVLForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    words = tokenizer(
        ["<start_of_turn>", "<end_of_turn>"],
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32}),
        tokenizer=words,
        image_seq_length=4,
        chat_template=_template(_GEMMA, "<start_of_image>"),
    )
    config = transformers.Gemma3Config(
        text_config=_text(words),
        vision_config={**_VISION, "image_size": 32, "patch_size": 8},
        mm_tokens_per_image=4,
        **_ids(
            words,
            boi_token_index="<start_of_image>",
            eoi_token_index="<end_of_image>",
            image_token_index="<image_soft_token>",
        ),
    )
    return transformers.Gemma3ForConditionalGeneration(config), processor


def mllama() -> tuple[Any, Any]:
    words = tokenizer(
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"],
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<|finetune_right_pad_id|>",
    )
    processor = transformers.MllamaProcessor(
        image_processor=transformers.MllamaImageProcessor(size={"height": 32, "width": 32}, max_image_tiles=2),
        tokenizer=words,
        chat_template=_template(_LLAMA, "<|image|>"),
    )
    config = transformers.MllamaConfig(
        text_config=_text(words, num_hidden_layers=2, cross_attention_layers=[1]),
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_global_layers": 1,
            "attention_heads": 2, "image_size": 32, "patch_size": 8, "max_num_tiles": 2, "vision_output_dim": 64,
            "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        **_ids(words, image_token_index="<|image|>"),
    )  # fmt: skip
    return transformers.MllamaForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "idefics3": idefics3,
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "gemma3": gemma3,
    "mllama": mllama,
}


def family(name: str) -> tuple[Any, Any]:
    """The model and the processor of a family, one of `FAMILIES`."""
    torch.manual_seed(0)
    return FAMILIES[name]()
