"""Texts and pictures by the two towers of a CLIP model of open_clip.

The weights are those of a file, or of a tag that open_clip knows and finds in its cache. Weights that OpenAI trained
need QuickGELU, which open_clip no longer infers from the name of the tag: with plain GELU every vector shifts without
a word. So it is asked for wherever the architecture or the tag says so.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mimicit.embedding.cache import files_fingerprint
from mimicit.errors import UsageError

__all__ = ["OpenClip", "needs_quick_gelu"]


class OpenClip:
    """Embeds with the model ``ARCHITECTURE:FILE_OR_TAG``, such as ``ViT-L-14:openai``; on a GPU where there is one."""

    def __init__(self, source: str) -> None:
        open_clip, torch = _packages()
        architecture, _, weights = source.partition(":")
        if not weights or open_clip.get_model_config(architecture) is None:
            raise UsageError(
                f"open_clip:{source}: write open_clip:ARCHITECTURE:FILE_OR_TAG, such as open_clip:ViT-B-32:clip.pt"
            )
        quick = needs_quick_gelu(architecture, weights)
        try:
            model, _, transform = open_clip.create_model_and_transforms(
                architecture, pretrained=weights, force_quick_gelu=quick, weights_only=True
            )
        except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            why = str(error).partition("\n")[0]
            raise UsageError(f"open_clip:{source}: the model cannot be loaded: {why}") from error
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.eval().to(self._device)
        self._transform = transform
        self._tokenizer = open_clip.get_tokenizer(architecture)
        file = Path(weights)
        content = files_fingerprint(file) if file.exists() else weights
        self.fingerprint = f"open_clip {architecture} {quick} {content}"

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32[n, d]: the projected text features."""
        with self._torch.inference_mode():
            return _numbers(self._model.encode_text(self._tokenizer(list(texts)).to(self._device)))

    def embed_pictures(self, pictures: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """float32[n, d]: the projected picture features."""
        opened = [self._transform(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures]
        with self._torch.inference_mode():
            return _numbers(self._model.encode_image(self._torch.stack(opened).to(self._device)))


def needs_quick_gelu(architecture: str, weights: str) -> bool:
    """Whether ``architecture`` with ``weights`` (a tag, or a file) was trained with QuickGELU."""
    open_clip, _ = _packages()
    config: dict[str, Any] = open_clip.get_model_config(architecture) or {}
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, weights) or {}
    # A scripted archive of OpenAI is told by its name alone.
    return bool(config.get("quick_gelu") or tag.get("quick_gelu") or "openai" in Path(weights).name.lower())


def _packages() -> tuple[Any, Any]:
    try:
        import open_clip
        import torch
    except ImportError as error:
        raise UsageError(f"open_clip: {error}; run: pip install 'mimicit[train]'") from error
    return open_clip, torch


def _numbers(features: Any) -> npt.NDArray[np.float32]:
    return np.asarray(features.float().cpu().numpy(), np.float32)
