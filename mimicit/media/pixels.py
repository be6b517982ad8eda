"""Pixels of any Pillow mode to 8-bit sRGB over white, shrunk to a limit, as the bytes of a file.

What each kind becomes: 16-bit grey keeps its upper byte (what Pillow does to 16-bit colour, too); 32-bit integers and
floats are read as 0..1, 0..255 or 0..65535 if they fit, else stretched between their least and greatest value;
palettes, bilevel and grey are expanded; CMYK goes through its ICC profile, or else the plain formula. Transparency is
blended over white. An embedded ICC profile that is not sRGB is applied (a phone's Display P3 would look dull
without); one that lcms cannot use is ignored, as browsers do. The stored file carries no metadata at all.

Order matters for cost: shrink first, then do the rest on the few target pixels.

Shrinking is antialiased bicubic: by SIMD if `cykooz_resizer` is installed, else by Pillow. From 750 x 500 to 336 x 224
pixels SIMD takes 0.9 ms, Pillow 2.9. The two differ by 1/255, or a little more in noise, where it matters
which direction is done first. The result of `cykooz_resizer` is the same on every processor, and which of the two was
used is noted in the manifest (see `mimicit.pipeline.stages.media_table.library_versions`).
"""

from __future__ import annotations

import io
import threading
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms

from mimicit.media import ImageFormat, MediaOptions

_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UPRIGHT_AXES: Final = frozenset((1, 2, 3, 4))
"""The orientations that keep width as width."""

_PROFILE_SPACE: Final = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
_SRGB: Final = ImageCms.createProfile("sRGB")


def fit_within(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height scaled so that the longest side is at most ``size`` (0: no limit); never enlarged, never 0."""
    longest = max(width, height)
    if size == 0 or longest <= size:
        return width, height
    return tuple(max(1, (2 * side * size + longest) // (2 * longest)) for side in (width, height))  # type: ignore[return-value]


def shrink(picture: Image.Image, target: tuple[int, int]) -> Image.Image:
    """``picture`` with ``target`` pixels, by an antialiased bicubic filter.

    Modes that cannot be filtered are expanded: the result is L, LAB, RGB, RGBA or CMYK.
    """
    flat = _filterable(picture)
    return flat if flat.size == target else resized(flat, target)


def to_rgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """``picture`` (as `shrink` returns it) in mode RGB, over white, in sRGB."""
    opaque = _over_white(picture)
    managed = _managed(opaque, profile) if profile and has_foreign_profile(profile) else None
    return managed or opaque.convert("RGB")


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """``picture`` turned as EXIF ``orientation`` (1 to 8) asks."""
    method = _TRANSPOSE.get(orientation)
    return picture if method is None else picture.transpose(method)


def has_foreign_profile(profile: bytes | None) -> bool:
    """Whether an embedded ICC profile describes another colour space than sRGB."""
    if not profile:
        return False
    try:
        words = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError):
        return False  # unusable, so it is ignored
    return "srgb" not in words.lower()


def compress(picture: Image.Image, options: MediaOptions) -> bytes:
    """The RGB ``picture`` as a file of ``options.image_format``, without metadata; equal pixels give equal bytes."""
    bare = picture.copy()
    bare.info = {}  # Pillow would carry comments, profiles and text over from the input
    stream = io.BytesIO()
    bare.save(stream, **_save_options(options.image_format, options.quality))
    return stream.getvalue()


def _save_options(format: ImageFormat, quality: int) -> dict[str, Any]:
    if format == "jpg":
        return {"format": "JPEG", "quality": quality}
    if format == "webp":
        return {"format": "WEBP", "quality": quality, "method": 4}
    return {"format": "PNG"}


def _filterable(picture: Image.Image) -> Image.Image:
    """``picture`` in a mode with 8 bits per channel that can be interpolated."""
    mode = picture.mode
    if mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if mode in ("I", "F"):
        return _eight_bits(np.asarray(picture))
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    if mode == "1":
        return picture.convert("L")
    return picture if mode in _PROFILE_SPACE else picture.convert("RGB")


def _eight_bits(values: np.ndarray[Any, Any]) -> Image.Image:
    finite = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if low < 0 or high > 65535:
        offset, whole = low, high - low
    else:
        offset, whole = 0.0, 1.0 if high <= 1 and values.dtype.kind == "f" else 255.0 if high <= 255 else 65535.0
    scaled = (finite - offset) * (255.0 / whole) if whole > 0 else np.zeros_like(finite)
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _over_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _managed(picture: Image.Image, profile: bytes) -> Image.Image | None:
    """``picture`` taken from its ICC ``profile`` to sRGB; None if the profile does not fit or cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _PROFILE_SPACE.get(picture.mode):
            return None
        return ImageCms.profileToProfile(picture, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


try:
    import cykooz_resizer
except ImportError:  # no binary package for this processor
    cykooz_resizer = None


REDUCING_GAP: Final = 2.0
"""Cheap halving leaves at least this factor to the target; a true filter does the rest (within 1/255 or so)."""

_HALVED_FROM: Final = 2 * REDUCING_GAP  # times the target, from which on Pillow halves


class _Kept(threading.local):
    """What each thread keeps: allocating its working memory for every picture would take as long as the work."""

    def __init__(self) -> None:
        self.resizer = cykooz_resizer.Resizer()
        catmull_rom = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.catmull_rom)  # Pillow's bicubic
        self.options = cykooz_resizer.ResizeOptions(resize_alg=catmull_rom, use_alpha=False)


_kept = None if cykooz_resizer is None else _Kept()


def resized(picture: Image.Image, target: tuple[int, int]) -> Image.Image:
    """``picture`` (L, LAB, RGB, RGBA or CMYK) with ``target`` (width, height) pixels."""
    factor = max(have / want for have, want in zip(picture.size, target, strict=True))
    if _kept is None or picture.mode != "RGB" or factor >= _HALVED_FROM:
        return picture.resize(target, Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP)
    # Through bytes, not Pillow's memory, whose layout is internal.
    kind = cykooz_resizer.PixelType.U8x3
    source = cykooz_resizer.ImageData(*picture.size, kind, picture.tobytes())
    result = cykooz_resizer.ImageData(*target, kind)
    _kept.resizer.resize(source, result, _kept.options)
    return Image.frombytes("RGB", target, result.get_buffer())
