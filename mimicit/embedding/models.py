"""Embedders that are models: CLIP of open_clip, and any model in a local folder as transformers saves it.

`OpenClip` is the two towers of a CLIP model. The weights are those of a file, or of a tag that open_clip knows and
finds in its cache. Weights that OpenAI trained need QuickGELU, which open_clip no longer infers from the name of the
tag: with plain GELU every vector shifts without an error. So it is requested if the architecture, the tag or the file
name says so.

A transformers model with a joint space (CLIP, SigLIP and their kin) gives its projected features. Any other text
encoder gives the mean of its last hidden states over the tokens, or the first of them if the folder holds a
``1_Pooling/config.json`` of sentence-transformers which says so. Any other picture encoder (DINOv2, ViT, a timm
network, ...) gives its pooled output, or the mean of its tokens if it has none. Code in the folder is never run,
and nothing that it names is fetched.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
from PIL import Image

from mimicit.embedding.vectors import files_fingerprint
from mimicit.errors import UsageError

_MOST_TOKENS: Final = 512


class OpenClip:
    """Embeds with the model ``ARCHITECTURE:FILE_OR_TAG``, such as ``ViT-L-14:openai``; on a GPU if there is one."""

    def __init__(self, source: str) -> None:
        open_clip, torch = _open_clip()
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
    open_clip, _ = _open_clip()
    config: dict[str, Any] = open_clip.get_model_config(architecture) or {}
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, weights) or {}
    # A scripted archive of OpenAI can be recognised only by its name.
    return bool(config.get("quick_gelu") or tag.get("quick_gelu") or "openai" in Path(weights).name.lower())


class TransformersTexts:
    """Embeds texts with the model in ``folder``; on a GPU if there is one."""

    def __init__(self, folder: str) -> None:
        transformers, self._torch = _transformers()
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
        """float32[n, d] for n texts, cut if they are longer than the model takes."""
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
    """Embeds pictures with the model in ``folder``; on a GPU if there is one."""

    def __init__(self, folder: str) -> None:
        transformers, self._torch = _transformers()
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


def _open_clip() -> tuple[Any, Any]:
    try:
        import open_clip
        import torch
    except ImportError as error:
        raise UsageError(f"open_clip: {error}; run: pip install 'mimicit[train]'") from error
    return open_clip, torch


def _numbers(features: Any) -> npt.NDArray[np.float32]:
    return np.asarray(features.float().cpu().numpy(), np.float32)


def _transformers() -> tuple[Any, Any]:
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
        with _without_network():
            return load(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise UsageError(f"transformers:{folder}: cannot be loaded: {error}") from error


@contextmanager
def _without_network() -> Iterator[None]:
    """Fetch nothing in the block: the configuration in a folder may ask for the backbone of another model."""
    from huggingface_hub import constants

    usual = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = usual


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
        return pooled.flatten(1)  # convolutional networks leave a height and a width of 1
    states = getattr(output, "last_hidden_state", None)
    return output if states is None else states.mean(1)
