"""The named models: `otter-9b`, the paper's, and `tiny`, which two CPU cores train from scratch."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from transformers import AutoConfig, PreTrainedConfig

from mimicit.errors import TrainError, UsageError
from otter_train.model.build import clip_config
from otter_train.model.config import LanguageConfig, ModelConfig, PerceiverConfig, VisionConfig

__all__ = ["PRESETS", "preset", "with_pretrained"]

# What makes a vision tower of transformers; all of it must be said by `VisionConfig`, or be the default.
_CLIP_FIELDS: Final = (
    "hidden_act",
    "hidden_size",
    "image_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
)

PRESETS: Final[dict[str, ModelConfig]] = {
    # The paper's: LLaMA-7B and ViT-L/14; name the folders of the weights with `with_pretrained`.
    "otter-9b": ModelConfig(
        language=LanguageConfig(
            architecture={
                "model_type": "llama",
                "hidden_size": 4096,
                "intermediate_size": 11008,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 32,
                "max_position_embeddings": 2048,
                "rms_norm_eps": 1e-6,
            }
        )
    ),
    # From random weights, everything trained, in minutes on two CPU cores: 64x64 pictures of 64 patches.
    "tiny": ModelConfig(
        language=LanguageConfig(
            architecture={
                "model_type": "llama",
                "hidden_size": 128,
                "intermediate_size": 256,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "max_position_embeddings": 2048,
                "initializer_range": 0.08,  # about 1 / sqrt(width); transformers' 0.02 suits wide models
            }
        ),
        vision=VisionConfig(image_size=64, patch_size=8, width=96, layers=2, heads=4, stem="conv"),
        perceiver=PerceiverConfig(depth=1, dim_head=32, heads=4, num_latents=16),
        cross_attention_every=2,
        cross_attention_heads=4,
        cross_attention_dim_head=32,
        cross_attention_gate=1.0,
    ),
}


def preset(name: str) -> ModelConfig:
    """The configuration called ``name``; `UsageError` lists the names there are."""
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"no model {name!r}; there are: {', '.join(sorted(PRESETS))}") from None


def with_pretrained(config: ModelConfig, *, language: str | None = None, vision: str | None = None) -> ModelConfig:
    """``config`` with the architecture and the weights of local folders in the place of its own.

    ``language`` is a LLaMA-family model and ``vision`` a CLIP model (whole, or its vision half), both as transformers
    saves them. `TrainError` where a folder holds no such model.
    """
    if language is not None:
        architecture = _read_config(language).to_diff_dict()
        config = replace(config, language=LanguageConfig(architecture=architecture, pretrained=language))
    if vision is not None:
        config = replace(config, vision=_vision_in(vision))
    return config


def _vision_in(folder: str) -> VisionConfig:
    found = _read_config(folder)
    clip = found.vision_config if found.model_type == "clip" else found
    if clip.model_type != "clip_vision_model":
        raise TrainError(f"{folder}: a {clip.model_type} model; the vision tower must be CLIP")
    config = VisionConfig(
        pretrained=folder,
        image_size=clip.image_size,
        patch_size=clip.patch_size,
        width=clip.hidden_size,
        layers=clip.num_hidden_layers,
        heads=clip.num_attention_heads,
        mlp_ratio=clip.intermediate_size // clip.hidden_size,
        projection=clip.projection_dim,
        quick_gelu=clip.hidden_act == "quick_gelu",
    )
    rebuilt = clip_config(config)
    unlike = [name for name in _CLIP_FIELDS if getattr(clip, name) != getattr(rebuilt, name)]
    if unlike:
        raise TrainError(f"{folder}: a CLIP vision transformer of an unknown kind ({', '.join(unlike)})")
    return config


def _read_config(folder: str) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TrainError(f"{folder}: holds no config.json of transformers ({error})") from error
    return config
