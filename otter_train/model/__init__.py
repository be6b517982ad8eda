"""The Otter architecture: a vision tower, a perceiver, and a language model with gated cross-attention.

::

    vision_x (B, T_img, F, 3, H, W) ──> VisionTower ──> PerceiverResampler ──> media (B, T_img, n, d)
                                                                                │ keys, values
    lang_x (B, T) ──> embedding ──> [GatedCrossAttentionBlock ──> decoder layer] × L ──> logits
"""

from otter_train.model.build import build_model
from otter_train.model.config import ModelConfig
from otter_train.model.convert import from_layout, to_layout
from otter_train.model.otter import Otter, OtterOutput, TokenIds
from otter_train.model.presets import PRESETS, preset, with_pretrained
from otter_train.model.trainable import freeze, trainable_count, trainable_parameters

__all__ = [
    "PRESETS",
    "ModelConfig",
    "Otter",
    "OtterOutput",
    "TokenIds",
    "build_model",
    "freeze",
    "from_layout",
    "preset",
    "to_layout",
    "trainable_count",
    "trainable_parameters",
    "with_pretrained",
]
