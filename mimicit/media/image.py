"""One picture as it is stored: upright, RGB over white, no larger than asked; or its own bytes if they are all that.

Cost: the decode dominates (640 x 480 JPEG: 3.5 ms). A JPEG that is to be shrunk is decoded at 1/2, 1/4 or 1/8 scale
inside libjpeg, as long as twice the target remains; that is 2.2 times faster at 1500 x 1000 and within 9/255 of the
full decode. A picture that needs no change is decoded once at the smallest scale, only to know that it is whole.

`open_stored` opens it again: JPEG, PNG or WebP of the size that its sample states. Both loading for training and
verifying use it, so that one refuses what the other reports.

`fingerprint` gives 64 bits that hardly change when a picture is resized, recompressed or recoloured. It is a difference
hash: the picture becomes 9 x 8 grey cells, and each bit says whether a cell is brighter than its left neighbour. All of
it is integer arithmetic, so every machine computes the same bits. Crops and mirrored copies are other pictures to it.
Cost: a JPEG of 336 pixels is decoded at 1/8 scale, 0.3 ms.

Pixels of any Pillow mode become 8-bit sRGB over white, shrunk to a limit: 16-bit grey keeps its upper byte (what Pillow
does to 16-bit colour, too); 32-bit integers and floats are read as 0..1, 0..255 or 0..65535 if they fit, else stretched
between their least and greatest value; palettes, bilevel and grey are expanded; CMYK goes through its ICC profile, or
else the plain formula. Transparency is blended over white. An embedded ICC profile that is not sRGB is applied (a
phone's Display P3 would look dull without); one that lcms cannot use is ignored, as browsers do. The stored file
carries no metadata at all.

Order matters for cost: shrink first, then do the rest on the few target pixels.

Shrinking is antialiased bicubic: by SIMD if `cykooz_resizer` is installed, else by Pillow. From 750 x 500 to 336 x 224
pixels SIMD takes 0.9 ms, Pillow 2.9. The two differ by 1/255, or a little more in noise, where it matters
which direction is done first. The result of `cykooz_resizer` is the same on every processor, and which of the two was
used is noted in the manifest (see `mimicit.pipeline.stages.media_table.library_versions`).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms, JpegImagePlugin

from mimicit.errors import RejectedError
from mimicit.media import EncodedMedia, ImageFormat, MediaOptions
from mimicit.media.image_file import ImageHeader, open_image

_STORED_AS: Final = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_PNG_BIT_DEPTH_OFFSET: Final = 24

_OPTIONS: Final = MediaOptions()

_COLUMNS: Final = 9
_ROWS: Final = 8
_LEAST_CONTRAST: Final = 8  # of 255; below it the bits are noise, and all plain pictures would look alike

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


def encode_image(data: bytes, options: MediaOptions) -> EncodedMedia:
    """The picture ``data`` as it is stored.

    A file that already is what would be stored (format, size, 8-bit RGB, upright, one frame, no ICC profile but sRGB)
    passes through untouched, metadata included. The first frame stands for an animation.

    `RejectedError` is the only error, with the reasons of `probe_image`, before or while decoding.
    """
    with open_image(data, options) as (picture, header):
        target = fit_within(header.width, header.height, options.size)
        if _is_compliant(picture, header, data, options):
            _draft(picture, (1, 1))
            picture.load()  # only to know that it is whole
            stored = data
        else:
            _draft(picture, target)
            picture.load()
            profile = picture.info.get("icc_profile")
            rgb = upright(to_rgb(shrink(picture, target), profile), header.orientation)
            target, stored = rgb.size, compress(rgb, options)
        if header.format == "png":
            _check_sums(data)
    width, height = target
    return EncodedMedia(
        kind="image",
        extension=options.image_format,
        files=(stored,),
        width=width,
        height=height,
        original_width=header.width,
        original_height=header.height,
    )


@contextmanager
def open_stored(data: bytes, name: str, width: int, height: int) -> Iterator[tuple[Image.Image, ImageHeader]]:
    """The stored picture ``data`` of ``width`` x ``height`` pixels, opened but not decoded; errors as `open_image`.

    `RejectedError` also if it is a picture of another size, or of another format than its ``name`` ends in.
    """
    with open_image(data, _OPTIONS) as (picture, header):
        extension = _STORED_AS.get(header.format)
        if extension is None:
            raise RejectedError("unsupported_media", f"a {header.format} picture; shards hold {', '.join(_STORED_AS)}")
        if not name.endswith(f".{extension}"):
            raise RejectedError("bad_media", f"a {header.format} picture, which its name does not say")
        if (header.width, header.height) != (width, height):  # known before any pixel is decoded
            raise RejectedError("bad_media", f"{header.width}x{header.height} pixels, expected {width}x{height}")
        yield picture, header


def check_stored(data: bytes, name: str, width: int, height: int) -> None:
    """Decode the stored picture ``data`` as cheaply as possible, to check that it can be; errors as `open_stored`."""
    with open_stored(data, name, width, height) as (picture, _):
        if isinstance(picture, JpegImagePlugin.JpegImageFile):
            picture.draft(None, (1, 1))
        picture.load()


def fingerprint(stored: bytes) -> int | None:
    """The fingerprint of a stored picture (its bytes are known to be sound); ``None`` if it is almost plain."""
    with Image.open(io.BytesIO(stored), formats=["JPEG", "PNG", "WEBP"]) as picture:
        picture.draft("L", (_COLUMNS * 4, _ROWS * 4))
        grey = picture.convert("L").resize((_COLUMNS, _ROWS), Image.Resampling.BOX).tobytes()
    if max(grey) - min(grey) < _LEAST_CONTRAST:
        return None
    bits = 0
    for row in range(0, _COLUMNS * _ROWS, _COLUMNS):
        for left in range(row, row + _COLUMNS - 1):
            bits = bits << 1 | (grey[left + 1] > grey[left])
    return bits


def distance(one: int, other: int) -> int:
    """In how many of the 64 bits two fingerprints differ."""
    return (one ^ other).bit_count()


def _is_compliant(picture: Image.Image, header: ImageHeader, data: bytes, options: MediaOptions) -> bool:
    return (
        _STORED_AS.get(header.format) == options.image_format
        and picture.mode == "RGB"
        and not picture.has_transparency_data
        and not (header.format == "png" and data[_PNG_BIT_DEPTH_OFFSET] != 8)  # Pillow reads 16-bit colour as RGB
        and header.orientation == 1
        and not header.animated
        and (options.size == 0 or max(picture.size) <= options.size)
        and not has_foreign_profile(picture.info.get("icc_profile"))
    )


def _check_sums(data: bytes) -> None:
    """Raise if the PNG ``data`` is cut or damaged: decoding alone reads neither checksums nor the end."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as again:
        again.verify()


def _draft(picture: Image.Image, target: tuple[int, int]) -> None:
    """Let libjpeg scale while it decodes, to no less than `REDUCING_GAP` times the target."""
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        picture.draft(None, (int(target[0] * REDUCING_GAP), int(target[1] * REDUCING_GAP)))


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
