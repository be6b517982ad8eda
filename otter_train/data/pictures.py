"""Stored bytes to the square the vision tower reads, as CLIP prepares it, in uint8.

CLIP resizes the shortest side to the tower's size (bicubic, antialiased) and crops the centre; a picture that already
is such a square passes unchanged. Values stay 0-255 until they are on the device (`normalise`), which moves a quarter
of the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mimicit.errors import CorruptShardError, TrainError
from mimicit.loading import decode
from mimicit.loading.resize import resize_centre
from mimicit.records import Media, Sample

__all__ = ["decode_media", "fit", "normalise"]


def decode_media(sample: Sample, media: Media, size: int) -> Tensor:
    """The picture or the frames of ``media`` as uint8[F, 3, size, size].

    `TrainError` names the sample and the file where the bytes are no such picture.
    """
    try:
        pixels = decode.decode_media(media, size, where=f"sample {sample.id!r} of {sample.source}")
    except CorruptShardError as error:
        raise TrainError(str(error)) from None
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def fit(picture: Tensor, size: int) -> Tensor:
    """uint8[3, H, W] to uint8[3, size, size]: shortest side to ``size`` (bicubic), then the centre."""
    pixels = picture.permute(1, 2, 0).numpy()
    if pixels.shape[:2] != (size, size):
        pixels = resize_centre(pixels, size)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def normalise(vision_x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8[..., 3, H, W] to float32 of the same shape: ``(x / 255 - mean) / std`` per channel."""
    offset = torch.tensor(mean, device=vision_x.device).view(3, 1, 1)
    scale = torch.tensor(std, device=vision_x.device).view(3, 1, 1)
    return (vision_x.float() / 255 - offset) / scale
