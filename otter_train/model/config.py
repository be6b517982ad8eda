"""The architecture of a model as JSON: what a checkpoint stores so that the same model can be built again.

Only `otter_train.model.build` reads these classes: the modules take plain arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_type_hints

from mimicit.errors import UsageError
from otter_train.model.vision import VisionLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """A vision tower; the defaults are CLIP's ViT-L/14 as OpenAI trained it.

    ``layout`` chooses the implementation. ``pretrained`` is where the weights come from (None: random): for
    ``transformers`` a local folder or a name on the Hub, for ``open_clip`` ``"ARCHITECTURE:TAG_OR_FILE"``, such as
    ``"ViT-L-14:openai"``.
    ``stem`` is what turns pixels into patch tokens: one linear map per patch, as CLIP has it, or ``conv``, a few small
    convolutions, with which a tower that is trained from scratch sees shapes after thousands of pictures instead of
    millions (Xiao et al., arXiv 2106.14881). Only a random ``transformers`` tower can have the latter.
    ``architecture``, as in `LanguageConfig`, is for towers that are not CLIP (SigLIP, DINOv2, a convolutional
    network); of the other fields only ``pretrained``, ``image_size`` and ``width`` then count.
    """

    layout: VisionLayout = "transformers"
    pretrained: str | None = None
    image_size: int = 224
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_ratio: int = 4
    projection: int = 768
    quick_gelu: bool = True
    stem: Literal["patch", "conv"] = "patch"
    architecture: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageConfig:
    """A decoder-only language model of transformers.

    ``architecture`` is its configuration as transformers writes it (``model_type`` and what differs from the
    defaults); ``pretrained`` a local folder with weights, or a name on the Hub (None: random).
    """

    architecture: Mapping[str, Any]
    pretrained: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PerceiverConfig:
    """The arguments of `PerceiverResampler`; without ``width`` it is as wide as the vision tower."""

    depth: int = 6
    dim_head: int = 64
    heads: int = 8
    num_latents: int = 64
    ff_mult: int = 4
    max_num_frames: int | None = None
    latent_std: float = 1.0
    width: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A whole Otter but for its vocabulary, which comes from the tokenizer."""

    language: LanguageConfig
    vision: VisionConfig = field(default_factory=VisionConfig)
    perceiver: PerceiverConfig = field(default_factory=PerceiverConfig)
    cross_attention_every: int = 4
    cross_attention_heads: int = 8
    cross_attention_dim_head: int = 64
    cross_attention_gate: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The configuration as it is stored in checkpoints."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelConfig:
        """Inverse of `to_json`; `UsageError` if a field is unknown or missing, or of another type."""
        parts = {"language": LanguageConfig, "vision": VisionConfig, "perceiver": PerceiverConfig}
        try:
            config = cls(**{name: parts[name](**part) if name in parts else part for name, part in value.items()})
        except TypeError as error:
            raise UsageError(f"the model was configured by another version: {error}") from None
        for part in (config, config.language, config.vision, config.perceiver):
            _check_types(part)
        return config


def _check_types(config: Any) -> None:
    """`UsageError` if a number or text in the dataclass ``config`` is of another type, or a whole number negative."""
    for name, declared in get_type_hints(type(config)).items():
        value = getattr(config, name)
        among = get_args(declared) if isinstance(declared, UnionType) else (declared,)
        kinds = [kind for kind in (int, float, str, bool) if kind in among]
        if not kinds or (value is None and NoneType in among):
            continue
        if type(value) not in (kinds if float not in kinds else [*kinds, int]) or (type(value) is int and value < 0):
            raise UsageError(f"the model's {name} is {str(value)[:40]}, which is no {kinds[0].__name__} that it can be")
