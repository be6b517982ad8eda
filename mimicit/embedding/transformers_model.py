"""Texts or pictures by a model that lies in a local folder as transformers saves it.

A model with a joint space (CLIP, SigLIP and their kin) gives its projected features. Any other text encoder gives the
mean of its last hidden states over the tokens, or the first of them where the folder holds ``1_Pooling/config.json``
of sentence-transformers which says so. Any other picture encoder (DINOv2, ViT, a timm network, ...) gives its pooled
output, or the mean of its tokens where it has none. Code in the folder is never run.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
from PIL import Image

from mimicit.embedding.cache import files_fingerprint
from mimicit.errors import UsageError

__all__ = ["TransformersPictures", "TransformersTexts"]

_MOST_TOKENS: Final = 512


class TransformersTexts:
    """Embeds texts with the model in ``folder``; on a GPU where there is one."""

    def __init__(self, folder: str) -> None:
        transformers, self._torch = _packages()
        self._tokenizer = _loaded(transformers.AutoTokenizer.from_pretrained, folder)
        self._model, self._device = _model(transformers, self._torch, folder)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._joint = hasattr(self._model, "get_text_features")
        self._first = _pools_first_token(Path(folder))
        config = getattr(self._model.config, "text_config", self._model.config)
        self._length = min(getattr(config, "max_position_embeddings", _MOST_TOKENS), _MOST_TOKENS)
        self.fingerprint = f"transformers-texts {files_fingerprint(Path(folder))}"

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32[n, d] for n texts; what is longer than the model takes is cut."""
        # SigLIP was trained on texts padded to its full length.
        padding = "max_length" if self._joint else True
        tokens = self._tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self._length, return_tensors="pt"
        ).to(self._device)
        with self._torch.inference_mode():
            if self._joint:
                known = {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}
                return _numbers(_pooled(self._model.get_text_features(**known)))
            states = self._model(**tokens).last_hidden_state
            if self._first:
                return _numbers(states[:, 0])
            mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
            return _numbers((states * mask).sum(1) / mask.sum(1).clamp(min=1))


class TransformersPictures:
    """Embeds pictures with the model in ``folder``; on a GPU where there is one."""

    def __init__(self, folder: str) -> None:
        transformers, self._torch = _packages()
        self._processor = _loaded(transformers.AutoImageProcessor.from_pretrained, folder)
        self._model, self._device = _model(transformers, self._torch, folder)
        self.fingerprint = f"transformers-pictures {files_fingerprint(Path(folder))}"

    def embed(self, pictures: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """float32[n, d] for n stored pictures."""
        opened = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
        pixels = self._processor(images=opened, return_tensors="pt")["pixel_values"].to(self._device)
        with self._torch.inference_mode():
            joint = getattr(self._model, "get_image_features", None)
            return _numbers(_pooled((joint or self._model)(pixel_values=pixels)))


def _packages() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UsageError(f"transformers: {error}; run: pip install 'mimicit[train]'") from error
    transformers.utils.logging.disable_progress_bar()  # the build shows its own
    return transformers, torch


def _loaded(load: Callable[..., Any], folder: str) -> Any:
    if not Path(folder).is_dir():
        raise UsageError(f"transformers:{folder}: no such folder")
    try:
        return load(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise UsageError(f"transformers:{folder}: cannot be loaded: {error}") from error


def _model(transformers: Any, torch: Any, folder: str) -> tuple[Any, str]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _loaded(transformers.AutoModel.from_pretrained, folder).float().eval().to(device), device


def _pools_first_token(folder: Path) -> bool:
    config = folder / "1_Pooling" / "config.json"
    if not config.is_file():
        return False
    try:
        return bool(orjson.loads(config.read_bytes()).get("pooling_mode_cls_token", False))
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise UsageError(f"{config}: no JSON object: {error}") from error


def _pooled(output: Any) -> Any:
    """[n, d] of what a tower returns: features as such, or pooled, or the mean of the tokens."""
    pooled = getattr(output, "pooler_output", None)
    if pooled is not None:
        return pooled.flatten(1)  # convolutional networks leave two sides of one pixel
    states = getattr(output, "last_hidden_state", None)
    return output if states is None else states.mean(1)


def _numbers(features: Any) -> npt.NDArray[np.float32]:
    return np.asarray(features.float().cpu().numpy(), np.float32)
