"""The named models: `otter-9b`, the paper's, and `tiny`, which two CPU cores train from scratch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from mimicit.errors import TrainError, UsageError
from otter_train.model.build import architecture_of, clip_config, text_config
from otter_train.model.config import LanguageConfig, ModelConfig, PerceiverConfig, VisionConfig
from otter_train.model.sources import read_pretrained
from otter_train.model.vision import NORMALISATION, transformers_tower

_WITH_TEXT: Final = ("aimv2", "clip", "siglip", "siglip2")
# What defines a CLIP tower of transformers; each must be a field of `VisionConfig`, or have its default value.
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
    """``config`` with the architecture and the weights of other models in the place of its own.

    ``language`` is a decoder-only language model, ``vision`` a vision tower (or a whole CLIP or SigLIP), each as
    transformers saves it: a local folder, or a name on the Hub. ``vision`` may also name weights of open_clip, as
    ``"ARCHITECTURE:TAG_OR_FILE"``. `TrainError` if there is no such model.
    """
    if language is not None:
        architecture = architecture_of(text_config(_config_in(language), language))
        config = replace(config, language=LanguageConfig(architecture=architecture, pretrained=language))
    if vision is not None:
        is_open_clip = ":" in vision and not Path(vision).exists()
        config = replace(config, vision=_open_clip_vision(vision) if is_open_clip else _vision_in(vision))
    return config


def _vision_in(source: str) -> VisionConfig:
    whole = _config_in(source)
    found = whole.vision_config if whole.model_type in _WITH_TEXT else whole
    if found.model_type == "clip_vision_model":
        return _clip_vision(source, found)
    if found.model_type not in NORMALISATION:
        raise TrainError(
            f"{source}: a {found.model_type} model is no vision tower; there are {', '.join(sorted(NORMALISATION))}"
        )
    config = VisionConfig(
        pretrained=source,
        image_size=_image_size(found),
        architecture=architecture_of(found),
    )
    with torch.device("meta"):
        tower = transformers_tower(AutoModel.from_config(found), image_size=config.image_size)
    return replace(config, width=tower.dim, image_size=tower.image_size)


def _image_size(config: PreTrainedConfig) -> int:
    if config.model_type == "siglip2_vision_model":  # pictures of any shape, with at most ``num_patches``
        return math.isqrt(config.num_patches) * int(config.patch_size)
    if config.model_type == "timm_wrapper":
        *_, height, width = (getattr(config, "pretrained_cfg", None) or {}).get(
            "input_size", [VisionConfig().image_size] * 2
        )
        return int(min(height, width))
    return int(getattr(config, "image_size", VisionConfig().image_size))


def _clip_vision(source: str, clip: PreTrainedConfig) -> VisionConfig:
    config = VisionConfig(
        pretrained=source,
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
        raise TrainError(f"{source}: a CLIP vision transformer of an unknown kind ({', '.join(unlike)})")
    return config


def _open_clip_vision(source: str) -> VisionConfig:
    import open_clip  # heavy (it brings torchvision), and needed for this layout only

    name, _, tag = source.partition(":")
    architecture = open_clip.get_model_config(name)
    if architecture is None:
        raise TrainError(f"{source}: open_clip has no architecture {name}")
    shape = architecture["vision_cfg"]
    if not shape.get("patch_size"):
        raise TrainError(f"{source}: {name} is no vision transformer; take one such as ViT-L-14")
    trained = open_clip.get_pretrained_cfg(name, tag)
    return VisionConfig(
        layout="open_clip",
        pretrained=source,
        image_size=shape["image_size"],
        patch_size=shape["patch_size"],
        width=shape["width"],
        layers=shape["layers"],
        heads=shape["width"] // shape.get("head_width", 64),
        mlp_ratio=shape.get("mlp_ratio", 4),
        projection=architecture["embed_dim"],
        # OpenAI trained with QuickGELU, which the architecture of the same name does not say.
        quick_gelu=architecture.get("quick_gelu", False) or bool(trained.get("quick_gelu", False)),
    )


def _config_in(source: str) -> PreTrainedConfig:
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise TrainError(f"{source}: no config.json is there; name a folder that transformers saved a model to")
    config: PreTrainedConfig = read_pretrained(AutoConfig, source, "configuration of transformers")
    return config
