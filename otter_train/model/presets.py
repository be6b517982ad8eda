"""The named models, and from a `ModelConfig` to an `Otter`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, PreTrainedModel

from mimicit.errors import TrainError, UsageError
from otter_train.model.config import LanguageConfig, ModelConfig, PerceiverConfig, VisionConfig
from otter_train.model.otter import Otter, TokenIds
from otter_train.model.perceiver import PerceiverResampler
from otter_train.model.vision import OpenClipTower, TransformersTower, VisionTower

__all__ = ["PRESETS", "ModelConfig", "build_model", "preset", "with_pretrained"]

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
            }
        ),
        vision=VisionConfig(image_size=64, patch_size=8, width=96, layers=2, heads=4),
        perceiver=PerceiverConfig(depth=1, dim_head=32, heads=4, num_latents=16),
        cross_attention_every=2,
        cross_attention_heads=4,
        cross_attention_dim_head=32,
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
        architecture = _read_config(AutoConfig, language).to_diff_dict()
        config = replace(config, language=LanguageConfig(architecture=architecture, pretrained=language))
    if vision is not None:
        config = replace(config, vision=_vision_of(_read_config(CLIPVisionConfig, vision), vision))
    return config


def build_model(
    config: ModelConfig,
    *,
    vocab_size: int,
    token_ids: TokenIds,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    load_weights: bool = True,
) -> Otter:
    """Build the model of ``config`` for a tokenizer of ``vocab_size`` tokens; everything in it is trainable.

    ``dtype`` is that of the language model and the vision tower; what joins them is float32. Casting the model
    afterwards would also round the rotary frequencies. With ``load_weights`` false (a checkpoint brings them) no
    pretrained weights are read; on the meta device they never are. Random weights are drawn on the CPU from torch's
    global generator, so that a seed gives the same model on every device. Embeddings grow to ``vocab_size`` but
    never shrink: some models have more rows than tokens. `TrainError` where weights can't be read or do not fit.
    """
    place = torch.device(device)
    build_on = place if place.type == "meta" else torch.device("cpu")
    load_weights = load_weights and place.type != "meta"
    biggest = max(token_ids.image, token_ids.endofchunk, token_ids.answer, token_ids.pad)
    if biggest >= vocab_size:
        raise TrainError(f"token id {biggest} lies outside of a vocabulary of {vocab_size}")
    with build_on:
        vision = _build_vision(config.vision, dtype, load_weights)
        model = Otter(
            vision=vision,
            perceiver=PerceiverResampler(
                vision.dim,
                depth=config.perceiver.depth,
                dim_head=config.perceiver.dim_head,
                heads=config.perceiver.heads,
                num_latents=config.perceiver.num_latents,
                ff_mult=config.perceiver.ff_mult,
                max_num_frames=config.perceiver.max_num_frames,
            ),
            language=_build_language(config.language, vocab_size, dtype, load_weights),
            token_ids=token_ids,
            cross_attention_every=config.cross_attention_every,
            cross_attention_heads=config.cross_attention_heads,
            cross_attention_dim_head=config.cross_attention_dim_head,
        )
    return model.to(place)


def _build_language(
    config: LanguageConfig, vocab_size: int, dtype: torch.dtype, load_weights: bool
) -> PreTrainedModel:
    if config.pretrained is not None and load_weights:
        lm = _from_folder(AutoModelForCausalLM, config.pretrained, dtype)
        if lm.config.vocab_size < vocab_size:
            lm.resize_token_embeddings(vocab_size, mean_resizing=False)
        return lm
    architecture = dict(config.architecture)
    if config.pretrained is None:  # ids of another tokenizer mean nothing to random weights
        architecture |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    rows = max(vocab_size, architecture.get("vocab_size", 0) if config.pretrained is not None else 0)
    hf_config = AutoConfig.for_model(**architecture | {"vocab_size": rows})
    lm: PreTrainedModel = AutoModelForCausalLM.from_config(hf_config, dtype=dtype)
    return lm


def _build_vision(config: VisionConfig, dtype: torch.dtype, load_weights: bool) -> VisionTower:
    tower: VisionTower
    source = config.pretrained if load_weights else None
    if config.layout == "open_clip":
        tower = OpenClipTower(_open_clip_visual(config, source))
    elif source is not None:
        tower = TransformersTower(_from_folder(CLIPVisionModel, source, dtype))
    else:
        tower = TransformersTower(CLIPVisionModel(_clip_config(config)))
    if (tower.dim, tower.image_size) != (config.width, config.image_size):
        raise TrainError(
            f"{source}: a vision tower of width {tower.dim} for {tower.image_size} pixels, but the configuration"
            f" says {config.width} and {config.image_size}"
        )
    return tower.to(dtype)


def _clip_config(config: VisionConfig) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=config.width,
        intermediate_size=config.width * config.mlp_ratio,
        projection_dim=config.projection,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_act="quick_gelu" if config.quick_gelu else "gelu",
    )


def _vision_of(clip: CLIPVisionConfig, folder: str) -> VisionConfig:
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
    unlike = [
        name for name, value in _clip_config(config).to_diff_dict().items() if getattr(clip, name, None) != value
    ]
    if unlike:
        raise TrainError(f"{folder}: not a plain CLIP vision transformer ({', '.join(unlike)})")
    return config


def _open_clip_visual(config: VisionConfig, source: str | None) -> torch.nn.Module:
    import open_clip  # heavy (it brings torchvision), and needed for this layout only

    if source is not None:
        architecture, _, weights = source.partition(":")
        if not weights:
            raise UsageError(f"open_clip weights {source!r}: write ARCHITECTURE:TAG_OR_FILE, such as ViT-L-14:openai")
        clip = open_clip.create_model(architecture, pretrained=weights, force_quick_gelu=config.quick_gelu)
        return clip.visual
    from open_clip.transformer import QuickGELU, VisionTransformer

    return VisionTransformer(
        image_size=config.image_size,
        patch_size=config.patch_size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        output_dim=config.projection,
        act_layer=QuickGELU if config.quick_gelu else torch.nn.GELU,
    )


def _from_folder(kind: Any, folder: str, dtype: torch.dtype) -> Any:
    try:
        return kind.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TrainError(f"{folder}: no {kind.__name__} can be read from this folder ({error})") from error


def _read_config(kind: Any, folder: str) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TrainError(f"{folder}: no {kind.__name__} can be read from this folder ({error})") from error
