"""Stored pictures and frames to training arrays: RGB squares as CLIP prepares them, in uint8, channels last.

The reference is CLIP's preprocessing (shortest side to ``size``, antialiased bicubic, centre crop) without its last
step: normalise on the device, so that a quarter of the bytes are sent there. The largest difference from it is 2 of
255; for a JPEG of at least twice the size, which is decoded at a fraction of its size (n/8, libjpeg's scaled inverse
DCT, never below twice the target), it is about 10 at single edges, and less than 1 on average. EXIF orientation is not
applied, as in CLIP (`mimicit build` stores pictures upright). JPEGs are decoded by simplejpeg if it is installed (extra
``fast``), else by Pillow, to the same pixels.

The resize and centre crop are NumPy's: antialiased bicubic as two banded matrix products. The filter is Pillow's
(Catmull-Rom, a = -0.5, widened by the scale when it shrinks), so results agree with ``PIL.Image.resize`` within 1 of
255. Only the pixels of the crop are computed. The weights of eight neighbouring outputs form one small dense block,
which BLAS multiplies several times faster than Pillow filters (640x480 to 224: 0.7 ms against 2.5). Each product stays
below the size at which OpenBLAS starts threads: for so little work they cost more than they bring, and on a busy
machine, where they wait for each other, thirty times as much.
"""

from __future__ import annotations

import functools
import importlib
import math
import threading
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from mimicit.errors import CorruptShardError, RejectedError, UsageError
from mimicit.media.image import open_stored
from mimicit.records import Media, Sample

_LEAST_SCALED: Final = 2.0
"""Scaled decoding leaves at least this factor to the target; the bicubic filter does the rest."""

Pixels = NDArray[np.uint8]

_BLOCK: Final = 8
_MOST_PRODUCTS: Final = 1 << 18  # multiplications of one call; above this, OpenBLAS starts threads
_A: Final = -0.5

# Working memory is reused for every picture: a picture takes a few megabytes for a millisecond, and fresh from the
# allocator they cost more than the arithmetic on them (glibc gives the top of the heap back each time, and the kernel
# clears the pages anew: 2.5 ms for 640x480).
_MOST_KEPT_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedMedia:
    """The ``T`` media of a sample, of up to ``F`` frames: ``pixels`` uint8[T, F, size, size, 3], ``mask`` bool[T, F].

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
            result[frame] = _decode(data, file, (media.height, media.width), size)
        except RejectedError as error:
            raise CorruptShardError(f"{where}: {file} is damaged ({error}); run mimicit verify") from None
    return result


class CropBox(NamedTuple):
    """A picture scaled to ``height`` x ``width``, then cropped to a square that starts at ``top``, ``left``."""

    height: int
    width: int
    top: int
    left: int


def resize_centre(pixels: Pixels, size: int, *, original: tuple[int, int] | None = None, factor: float = 1.0) -> Pixels:
    """uint8[H, W, 3] to uint8[size, size, 3]: the shortest side to ``size``, bicubic, then the centre.

    For pixels that were shrunk by ``factor`` while they were decoded, give the ``original`` (height, width): H and W
    are rounded up, so the picture ends somewhere inside the last row and column.
    """
    height, width, _ = pixels.shape
    true_height, true_width = original or (height, width)
    box = _crop_box(true_height, true_width, size)
    rows = _bands(height, true_height * factor / box.height, box.top, size)
    across = (width, true_width * factor / box.width, box.left, size)
    columns = _bands(*across)
    top, bottom, left, right = rows[0].first, rows[-1].last, columns[0].first, columns[-1].last
    part = pixels[top:bottom, left:right]
    needed = scratch("needed", (bottom - top, (right - left) * 3), np.float32)
    needed.reshape(part.shape)[...] = part
    # Pillow rounds and clips between the passes, so at sharp edges the order of the passes counts.
    narrow = scratch("narrow", (bottom - top, size * 3), np.float32)
    for band in _per_channel(*across):
        inputs = needed[:, (band.first - left) * 3 : (band.last - left) * 3]
        outputs = narrow[:, band.start * 3 : band.stop * 3]
        step = max(1, _MOST_PRODUCTS // band.weights.size)
        for first in range(0, len(inputs), step):
            np.matmul(inputs[first : first + step], band.weights, out=outputs[first : first + step])
    _round(narrow)
    result = scratch("result", (size, size * 3), np.float32)
    for band in rows:
        inputs, outputs = narrow[band.first - top : band.last - top], result[band.start : band.stop]
        step = max(1, _MOST_PRODUCTS // band.weights.size)
        for first in range(0, size * 3, step):
            np.matmul(band.weights, inputs[:, first : first + step], out=outputs[:, first : first + step])
    return _round(result).astype(np.uint8).reshape(size, size, 3)


def scratch(purpose: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """An array with arbitrary content, valid until this thread asks for the same ``purpose`` again."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > _MOST_KEPT_BYTES:
        return np.empty(shape, dtype)
    kept = _BUFFERS.kept.get(purpose)
    if kept is None or kept.size < size:
        kept = _BUFFERS.kept[purpose] = np.empty(size, np.uint8)
    return kept[:size].view(dtype).reshape(shape)


def _decode(data: bytes, name: str, original: tuple[int, int], size: int) -> Pixels:
    with open_stored(data, name, original[1], original[0]) as (picture, _):  # it refuses impossible sizes
        box = _crop_box(*original, size)
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
    """The pixels, at least ``least`` (height, width) if the picture has as many, and the factor of their scale."""
    simplejpeg = _simplejpeg()
    if simplejpeg is not None and picture.mode == "RGB":
        height, width = least if original[0] >= least[0] and original[1] >= least[1] else (0, 0)
        try:
            # Large enough for the original, and so for any smaller scale.
            buffer = scratch("jpeg", (original[0] * original[1] * 3,), np.uint8)
            pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, buffer=buffer)
        except ValueError:
            pass  # also for faults that viewers tolerate: Pillow decides, with simplejpeg or without
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
    """Average whole boxes of pixels if that leaves ``least``: floats of a vast picture would not fit in memory."""
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


class _Band(NamedTuple):
    """Outputs ``[start, stop)`` are the product of ``weights`` and the inputs ``[first, last)``."""

    start: int
    stop: int
    first: int
    last: int
    weights: NDArray[np.float32]


def _crop_box(height: int, width: int, size: int) -> CropBox:
    """How CLIP (torchvision's ``Resize`` and ``CenterCrop``) fits a picture into a square of ``size``."""
    if height <= width:
        scaled_height, scaled_width = size, int(size * width / height)
    else:
        scaled_height, scaled_width = int(size * height / width), size
    return CropBox(scaled_height, scaled_width, round((scaled_height - size) / 2.0), round((scaled_width - size) / 2.0))


def _round(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To whole numbers of a byte, in place."""
    values += 0.5
    np.floor(values, out=values)
    return np.clip(values, 0, 255, out=values)


@functools.lru_cache(maxsize=256)
def _bands(size: int, scale: float, offset: int, count: int) -> tuple[_Band, ...]:
    """The weights from ``size`` inputs, ``scale`` for each output, to the outputs ``[offset, offset + count)``."""
    width = max(scale, 1.0)
    centres = (np.arange(offset, offset + count) + 0.5) * scale
    first = np.maximum((centres - 2 * width + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + 2 * width + 0.5).astype(np.int64), size)
    bands = []
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        inputs = np.arange(first[start], last[stop - 1])
        weights = _cubic((inputs + 0.5 - centres[start:stop, None]) / width)
        weights[(inputs < first[start:stop, None]) | (inputs >= last[start:stop, None])] = 0
        weights /= weights.sum(1, keepdims=True)
        bands.append(_Band(start, stop, int(first[start]), int(last[stop - 1]), weights.astype(np.float32)))
    return tuple(bands)


@functools.lru_cache(maxsize=256)
def _per_channel(size: int, scale: float, offset: int, count: int) -> tuple[_Band, ...]:
    """As `_bands`, for rows of interleaved RGB, multiplied from the right."""
    each = np.eye(3, dtype=np.float32)
    return tuple(
        band._replace(weights=np.ascontiguousarray(np.kron(band.weights, each).T))
        for band in _bands(size, scale, offset, count)
    )


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The kernel of Keys (1981)."""
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * _A - 4 * _A
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


class _Buffers(threading.local):
    """The buffers of one thread, by purpose."""

    def __init__(self) -> None:
        self.kept: dict[str, NDArray[np.uint8]] = {}


_BUFFERS: Final = _Buffers()
