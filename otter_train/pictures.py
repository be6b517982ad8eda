"""Stored bytes to the square the vision tower reads, as CLIP prepares it, in uint8.

CLIP resizes the shortest side to the tower's size (bicubic, antialiased) and crops the centre; a picture that already
is such a square passes unchanged. Values stay 0-255 until they are on the device (`normalise`), which moves a quarter
of the bytes; torch resizes uint8 channels-last several times faster than Pillow, within 1 of 255.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from mimicit.errors import TrainError
from mimicit.records import Media, Sample

__all__ = ["decode_media", "fit", "normalise"]

_FORMATS: Final = ("JPEG", "PNG", "WEBP")
_MAX_RATIO: Final = 4
"""Only the centre of a longer strip is resized: a line of one pixel must not become gigabytes before the crop."""


def decode_media(sample: Sample, media: Media, size: int) -> Tensor:
    """The picture or the frames of ``media`` as uint8[F, 3, size, size].

    `TrainError` names the sample and the file where the bytes are no such picture.
    """
    if len(media.data) != len(media.files):
        raise TrainError(f"sample {sample.id!r} of {sample.source}: the bytes of its media were not read")
    frames = []
    for file, data in zip(media.files, media.data, strict=True):
        try:
            frames.append(fit(_decode(data, media), size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise TrainError(
                f"sample {sample.id!r} of {sample.source}: {file} is damaged ({error}); run mimicit verify"
            ) from None
    return torch.stack(frames)


def fit(picture: Tensor, size: int) -> Tensor:
    """uint8[3, H, W] to uint8[3, size, size]: shortest side to ``size`` (bicubic), then the centre."""
    _, height, width = picture.shape
    shortest = min(height, width)
    if max(height, width) > _MAX_RATIO * shortest:
        picture = _centre(picture, min(height, _MAX_RATIO * shortest), min(width, _MAX_RATIO * shortest))
        _, height, width = picture.shape
    if shortest != size:
        target = (max(size, height * size // shortest), max(size, width * size // shortest))
        batch = picture.unsqueeze(0).contiguous(memory_format=torch.channels_last)
        picture = interpolate(batch, target, mode="bicubic", antialias=True)[0]
    return _centre(picture, size, size).contiguous()


def normalise(vision_x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8[..., 3, H, W] to float32 of the same shape: ``(x / 255 - mean) / std`` per channel."""
    offset = torch.tensor(mean, device=vision_x.device).view(3, 1, 1)
    scale = torch.tensor(std, device=vision_x.device).view(3, 1, 1)
    return (vision_x.float() / 255 - offset) / scale


def _decode(data: bytes, media: Media) -> Tensor:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        if image.size != (media.width, media.height):  # known before any pixel is decoded
            raise ValueError(f"{image.width}x{image.height} pixels, expected {media.width}x{media.height}")
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _centre(picture: Tensor, height: int, width: int) -> Tensor:
    top = round((picture.shape[1] - height) / 2)
    left = round((picture.shape[2] - width) / 2)
    return picture[:, top : top + height, left : left + width]
