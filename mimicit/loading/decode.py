"""Stored pictures and frames to training arrays: RGB squares as CLIP prepares them, in uint8, channels last.

The reference is CLIP's preprocessing (shortest side to ``size``, antialiased bicubic, centre crop) without its last
step: normalise on the device, where a quarter of the bytes arrive. Against it the largest difference is 2 of 255; for
a JPEG of at least twice the size, which is decoded at a fraction of it (n/8, libjpeg's scaled inverse DCT, never below
twice the target), it is about 10 at single edges, and less than 1 on average. EXIF orientation is not applied, as CLIP
does not (`mimicit build` stores pictures upright). JPEGs are decoded by simplejpeg where it is installed (extra
``fast``), else by Pillow, to the same pixels.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from mimicit.errors import CorruptShardError, RejectedError, UsageError
from mimicit.loading.resize import crop_box, resize_centre, scratch
from mimicit.media.stored import open_stored
from mimicit.records import Media, Sample

__all__ = ["DecodedMedia", "decode_media", "decode_pictures"]

_LEAST_SCALED: Final = 2.0
"""Scaled decoding goes no nearer to the target than this factor; the bicubic filter does the rest."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedMedia:
    """The media of a sample, ``T`` of up to ``F`` frames: ``pixels`` uint8[T, F, size, size, 3], ``mask`` bool[T, F].

    ``mask`` is true where there is a frame; a picture is one frame. Where it is false, the pixels are zero.
    """

    pixels: Pixels
    mask: NDArray[np.bool_]


def decode_pictures(sample: Sample, size: int, *, where: str = "") -> DecodedMedia:
    """The media of ``sample`` as squares of ``size`` pixels. Errors as `decode_media`."""
    frames = max((len(media.files) for media in sample.media), default=0)
    pixels = np.zeros((len(sample.media), frames, size, size, 3), np.uint8)
    mask = np.zeros((len(sample.media), frames), np.bool_)
    for place, media in enumerate(sample.media):
        pixels[place, : len(media.files)] = decode_media(media, size, where=where or f"sample {sample.key}")
        mask[place, : len(media.files)] = True
    return DecodedMedia(pixels=pixels, mask=mask)


def decode_media(media: Media, size: int, *, where: str = "") -> Pixels:
    """The picture or the frames of ``media`` as uint8[F, size, size, 3].

    `CorruptShardError` names ``where`` and the file whose bytes are not the picture that the sample describes.
    """
    if size < 1:
        raise UsageError(f"size={size}: pictures have at least one pixel")
    if len(media.data) != len(media.files):
        raise CorruptShardError(f"{where}: the bytes of its media were not read")
    result = np.empty((len(media.files), size, size, 3), np.uint8)
    for frame, (file, data) in enumerate(zip(media.files, media.data, strict=True)):
        try:
            result[frame] = _decode(data, (media.height, media.width), size)
        except RejectedError as error:
            raise CorruptShardError(f"{where}: {file} is damaged ({error}); run mimicit verify") from None
    return result


def _decode(data: bytes, original: tuple[int, int], size: int) -> Pixels:
    with open_stored(data, original[1], original[0]) as (picture, _):  # which refuses sizes that no picture has
        box = crop_box(*original, size)
        least = (ceil(box.height * _LEAST_SCALED), ceil(box.width * _LEAST_SCALED))
        if isinstance(picture, JpegImagePlugin.JpegImageFile):
            pixels, factor = _decode_jpeg(picture, data, original, least)
        else:
            pixels, factor = _reduced(picture.convert("RGB"), least)
    if pixels.shape == (size, size, 3):
        return pixels
    return resize_centre(pixels, size, original=original, factor=factor)


def _decode_jpeg(
    picture: JpegImagePlugin.JpegImageFile, data: bytes, original: tuple[int, int], least: tuple[int, int]
) -> tuple[Pixels, float]:
    """The pixels, ``least`` (height, width) or more where the picture has as many, and what they were scaled by."""
    simplejpeg = _simplejpeg()
    if simplejpeg is not None and picture.mode == "RGB":
        height, width = least if original[0] >= least[0] and original[1] >= least[1] else (0, 0)
        try:
            # Never more than the original, whatever it is scaled to.
            buffer = scratch("jpeg", (original[0] * original[1] * 3,), np.uint8)
            pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, buffer=buffer)
        except ValueError:
            pass  # also at faults that viewers pass over: what Pillow says counts, with simplejpeg or without
        else:
            return pixels, _eighths(original, pixels.shape) / 8
    picture.draft(None, (least[1], least[0]))
    pixels = np.asarray(picture.convert("RGB"))
    return pixels, _eighths(original, pixels.shape) / 8


def _eighths(original: tuple[int, int], decoded: tuple[int, ...]) -> int:
    """The n of the n/8 at which libjpeg has decoded."""
    return next(
        n for n in range(1, 9) if all(-(-side * n // 8) == d for side, d in zip(original, decoded, strict=False))
    )


def _reduced(picture: Image.Image, least: tuple[int, int]) -> tuple[Pixels, float]:
    """Whole boxes of pixels averaged where that leaves ``least``: floats of a vast picture would not fit memory."""
    factor = min(picture.height // least[0], picture.width // least[1])
    if factor < 2:
        return np.asarray(picture), 1.0
    return np.asarray(picture.reduce(factor)), 1 / factor


@functools.cache
def _simplejpeg() -> Any:
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None
