"""From a `ModelConfig` to an `Otter`: the one place that knows transformers' and open_clip's constructors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, PreTrainedModel

from mimicit.errors import TrainError, UsageError
from otter_train.model.config import LanguageConfig, ModelConfig, VisionConfig
from otter_train.model.otter import Otter, TokenIds
from otter_train.model.perceiver import PerceiverResampler
from otter_train.model.vision import OpenClipTower, TransformersTower, VisionTower

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

__all__ = ["build_model", "clip_config"]


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

    ``dtype`` is that of the language model and the vision tower; what joins them is float32. (Casting the model
    afterwards would also round the rotary frequencies.) With ``load_weights`` false, because a checkpoint brings
    them, no pretrained weights are read; on the meta device they never are. Random weights are drawn on the CPU from
    torch's global generator, so that a seed gives the same model on every device. Embeddings grow to ``vocab_size``
    but never shrink: some models have more rows than tokens. `TrainError` where weights can't be read or do not fit.
    """
    place = torch.device(device)
    meta = place.type == "meta"
    load_weights = load_weights and not meta
    biggest = max(token_ids.image, token_ids.endofchunk, token_ids.answer, token_ids.pad)
    if biggest >= vocab_size:
        raise TrainError(f"token id {biggest} lies outside of a vocabulary of {vocab_size}")
    with torch.device("meta" if meta else "cpu"):
        vision = _vision(config.vision, dtype, load_weights)
        language = _language(config.language, vocab_size, dtype, load_weights)
        perceiver = PerceiverResampler(
            vision.dim,
            depth=config.perceiver.depth,
            dim_head=config.perceiver.dim_head,
            heads=config.perceiver.heads,
            num_latents=config.perceiver.num_latents,
            ff_mult=config.perceiver.ff_mult,
            max_num_frames=config.perceiver.max_num_frames,
        )
        model = Otter(
            vision=vision,
            perceiver=perceiver,
            language=language,
            token_ids=token_ids,
            cross_attention_every=config.cross_attention_every,
            cross_attention_heads=config.cross_attention_heads,
            cross_attention_dim_head=config.cross_attention_dim_head,
            cross_attention_gate=config.cross_attention_gate,
        )
    return model.to(place)


def clip_config(config: VisionConfig) -> CLIPVisionConfig:
    """The configuration of ``config`` as transformers writes it."""
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


def _language(config: LanguageConfig, vocab_size: int, dtype: torch.dtype, load_weights: bool) -> PreTrainedModel:
    if config.pretrained is not None and load_weights:
        lm = _from_folder(AutoModelForCausalLM, config.pretrained, dtype)
        if lm.get_input_embeddings().num_embeddings < vocab_size:
            lm.resize_token_embeddings(vocab_size, mean_resizing=False)
        lm.get_input_embeddings().padding_idx = None  # it would keep one row, maybe a new token's, from being trained
        return lm
    architecture = dict(config.architecture)
    rows = max(vocab_size, architecture.get("vocab_size", 0))
    # These ids concern transformers' own generation; a padding id would keep a row of the embedding from training.
    unknown = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    lm_config = AutoConfig.for_model(**{**architecture, **unknown, "vocab_size": rows})
    return AutoModelForCausalLM.from_config(lm_config, dtype=dtype)


def _vision(config: VisionConfig, dtype: torch.dtype, load_weights: bool) -> VisionTower:
    source = config.pretrained if load_weights else None
    if config.stem == "conv" and (config.layout == "open_clip" or config.pretrained is not None):
        raise UsageError("a vision tower with a convolutional stem starts from random weights, in transformers' layout")
    tower: VisionTower
    if config.layout == "open_clip":
        tower = OpenClipTower(_open_clip_visual(config, source))
    elif source is not None:
        tower = TransformersTower(_from_folder(CLIPVisionModel, source, dtype))
    else:
        tower = TransformersTower(_random_clip(config), conv_stem=config.stem == "conv")
    if (tower.dim, tower.image_size) != (config.width, config.image_size):
        raise TrainError(
            f"{source}: a vision tower of width {tower.dim} for {tower.image_size} pixels, but the configuration"
            f" says {config.width} and {config.image_size}"
        )
    return tower.to(dtype)


def _random_clip(config: VisionConfig) -> CLIPVisionModel:
    """A CLIP tower of random weights whose position vectors are about as long as what it makes of a patch.

    transformers draws the weights of both with one standard deviation, which leaves positions so faint that a small
    model needs many times the steps to learn where things are.
    """
    model = CLIPVisionModel(clip_config(config))
    pixels = model.get_input_embeddings().weight[0].numel()
    positions = next(module for module in model.modules() if isinstance(module, nn.Embedding))
    nn.init.normal_(positions.weight, std=model.config.initializer_range * math.sqrt(pixels))
    return model


def _open_clip_visual(config: VisionConfig, source: str | None) -> VisionTransformer:
    import open_clip  # heavy (it brings torchvision), and needed for this layout only
    from open_clip.transformer import QuickGELU, VisionTransformer

    if source is None:
        return VisionTransformer(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            output_dim=config.projection,
            act_layer=QuickGELU if config.quick_gelu else nn.GELU,
        )
    architecture, _, weights = source.partition(":")
    if not weights:
        raise UsageError(f"open_clip weights {source!r}: write ARCHITECTURE:TAG_OR_FILE, such as ViT-L-14:openai")
    # Weights of OpenAI were trained with QuickGELU, and open_clip no longer infers that from their name.
    return open_clip.create_model(architecture, pretrained=weights, force_quick_gelu=config.quick_gelu).visual


def _from_folder(kind: Any, folder: str, dtype: torch.dtype) -> Any:
    try:
        model, report = kind.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise TrainError(f"{folder}: no {kind.__name__} can be read from this folder ({error})") from error
    if report["missing_keys"]:  # transformers would go on with random numbers
        raise TrainError(f"{folder}: weights are missing: {', '.join(sorted(report['missing_keys']))}")
    return model
