"""The ``config.json`` of Otter as it was published, to a `ModelConfig` and back.

It names the language model, the vision tower and the distance of the cross-attention blocks. The rest was constant
(8 heads of 64) or shows in the shapes of the weights; one more entry, ``otter_train``, holds our own configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from transformers import AutoConfig

from mimicit.errors import TrainError
from otter_train.model.build import architecture_of, clip_config, language_config
from otter_train.model.config import LanguageConfig, ModelConfig, PerceiverConfig, VisionConfig
from otter_train.model.lazy import LazyTensor

_OURS: Final = "otter_train"


def read_published(config: Mapping[str, Any], tensors: Mapping[str, LazyTensor], path: Path) -> ModelConfig:
    """The architecture of the weights ``tensors`` (by our names) that ``config`` describes; ``path`` is for errors."""
    if _OURS in config:
        return ModelConfig.from_json(config[_OURS])
    try:
        text, vision, every = config["text_config"], config["vision_config"], config["cross_attn_every_n_layers"]
        language = LanguageConfig(architecture={"model_type": text["model_type"], **text})
        tower = _clip(vision)
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainError(f"{path}: no configuration of an Otter (it lacks {error})") from None
    perceiver = perceiver_of(tensors)
    return ModelConfig(language=language, vision=tower, perceiver=perceiver, cross_attention_every=int(every))


def perceiver_of(tensors: Mapping[str, LazyTensor]) -> PerceiverConfig:
    """The perceiver of the weights ``tensors``, from their shapes; its heads are taken to be 8 of 64."""
    depths = [int(name.split(".")[2]) for name in tensors if name.startswith("perceiver.layers.")]
    latents, frames = tensors.get("perceiver.latents"), tensors.get("perceiver.frame_embs")
    return PerceiverConfig(
        depth=max(depths, default=PerceiverConfig().depth - 1) + 1,
        num_latents=PerceiverConfig().num_latents if latents is None else latents.shape[0],
        max_num_frames=None if frames is None else frames.shape[0],
    )


def write_published(model: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """The configuration of ``model`` as Otter published it, with the whole `ModelConfig` as an entry of our own."""
    vision = model.vision.architecture or architecture_of(clip_config(model.vision))
    return {
        "architectures": ["OtterForConditionalGeneration"],
        "model_type": "otter",
        "cross_attn_every_n_layers": model.cross_attention_every,
        "text_config": architecture_of(language_config(model.language, vocab_size)),
        "vision_config": dict(vision),
        _OURS: model.to_json(),
    }


def _clip(vision: Mapping[str, Any]) -> VisionConfig:
    kind = vision.get("model_type", "clip_vision_model")
    if kind != "clip_vision_model":
        raise KeyError("a vision_config of CLIP")
    clip = AutoConfig.for_model(**{"model_type": kind, **vision})
    return VisionConfig(
        image_size=clip.image_size,
        patch_size=clip.patch_size,
        width=clip.hidden_size,
        layers=clip.num_hidden_layers,
        heads=clip.num_attention_heads,
        mlp_ratio=clip.intermediate_size // clip.hidden_size,
        projection=clip.projection_dim,
        quick_gelu=clip.hidden_act == "quick_gelu",
    )
