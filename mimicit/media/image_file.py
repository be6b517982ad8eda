"""Opening a picture with Pillow as if it were hostile: limits before decoding, one kind of error, no leaked warning.

Pillow is lazy: `PIL.Image.open` reads the header alone, so a 30,000 x 30,000 PNG of 100 kB is refused here in
a millisecond, without its 900 million pixels ever being allocated. Only the plugin that matches the first bytes
is tried. Pillow's own limit (`PIL.Image.MAX_IMAGE_PIXELS` times two, 179 million pixels) stays on top of ours,
and its global settings are read but never changed.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final

from PIL import ExifTags, Image, UnidentifiedImageError, features

from mimicit.errors import RejectedError
from mimicit.media import MediaOptions
from mimicit.media.bounds import allow_pixels, out_of_memory
from mimicit.media.headers import check_frames, check_scans
from mimicit.media.sniff import HEAD_BYTES, kind_of, looks_like, sniff

PILLOW_ERRORS: Final[tuple[type[Exception], ...]] = (
    OSError,  # the documented one: unknown, truncated or damaged data (UnidentifiedImageError is one)
    SyntaxError,  # how the plugins say "broken header", also while decoding
    ValueError,  # impossible sizes, PNG text bombs, modes without a decoder
    TypeError,  # header fields of another type than the plugin expects (TIFF, EXIF)
    LookupError,  # IndexError, KeyError: fields that are absent or cut (TIFF, MPO, GIF)
    ArithmeticError,  # OverflowError, ZeroDivisionError: sizes and rationals (TIFF, EXIF)
    AttributeError,  # fields that the header left unset (TIFF, MPO)
    AssertionError,  # Pillow's own checks of its state
    EOFError,  # WebP and GIF frames that end early
    NotImplementedError,  # variants that Pillow knows and cannot decode (a RuntimeError)
    RuntimeError,  # decoder plugins that give up
    struct.error,  # headers that are cut
    zlib.error,  # compressed PNG chunks that are damaged
    Image.DecompressionBombError,  # Pillow's own limit
)
"""All that Pillow has been seen to raise on damaged pictures. Each is a fault of the data, not of the program."""

_PILLOW_NAMES: Final = {
    "avif": "AVIF",
    "bmp": "BMP",
    "gif": "GIF",
    "heic": "HEIF",
    "jpeg": "JPEG",
    "png": "PNG",
    "tiff": "TIFF",
    "webp": "WEBP",
}

_ENDS_EARLY: Final = (
    "truncated",
    "cannot load this image",  # a file that ends before its pixels begin
)


_OUT_OF_MEMORY: Final = "out of memory"  # how Pillow's own decoders say so, in an OSError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What the header of a picture says.

    ``format`` is one of ``avif bmp gif heic jpeg png tiff webp``; ``width`` and ``height`` are pixels as stored, before
    ``orientation`` (EXIF, 1 to 8) is applied; it is 1, upright, for every TIFF, which Pillow turns by itself. ``mode``
    is Pillow's; ``animated`` is true if there are several frames, of which only the first is used.
    """

    format: str
    width: int
    height: int
    mode: str
    orientation: int
    animated: bool


def probe_image(data: bytes, options: MediaOptions) -> ImageHeader:
    """The header of the picture ``data``; nothing is decoded.

    `RejectedError` with reason ``empty_media``, ``unsupported_media`` (not one of these formats),
    ``too_many_pixels``, ``too_many_frames`` (an animation as long as a clip), ``too_many_scans``, ``truncated_image``,
    ``too_much_memory`` or ``bad_media`` (a header that makes no sense).
    """
    with open_image(data, options) as (_, header):
        return header


@contextmanager
def open_image(data: bytes, options: MediaOptions) -> Iterator[tuple[Image.Image, ImageHeader]]:
    """The picture ``data``, opened but not decoded, within the limits of ``options``.

    What Pillow raises inside the ``with`` block becomes `RejectedError` too; its warnings are dropped.
    """
    format = _format_of(data)
    stream = io.BytesIO(data)
    opened = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(stream, formats=[_PILLOW_NAMES[format]]) as picture:
                header = _header(picture, format)
                check_pixels(header.width, header.height, options)
                allow_pixels(header.width * header.height)
                check_frames(picture, data)
                if format == "jpeg":
                    check_scans(data)
                opened = True
                yield picture, header
        except MemoryError:
            raise out_of_memory(options) from None
        except PILLOW_ERRORS as error:
            words = str(error).lower()
            if _OUT_OF_MEMORY in words:
                raise out_of_memory(options) from None
            ends_early = any(sign in words for sign in _ENDS_EARLY) if opened else stream.tell() >= len(data)
            raise _rejection(error, format, data, ends_early=ends_early) from None


def check_pixels(width: int, height: int, options: MediaOptions) -> None:
    """`RejectedError` if a picture or frame of this size is empty or above ``options.max_pixels``."""
    if width < 1 or height < 1:
        raise RejectedError("bad_media", f"the header says {width} x {height} pixels")
    if width * height > options.max_pixels:
        detail = f"{width} x {height} is {width * height:,} pixels; the limit is {options.max_pixels:,}"
        raise RejectedError("too_many_pixels", detail)


def _format_of(data: bytes) -> str:
    if not data:
        raise RejectedError("empty_media", "0 bytes")
    head = data[:HEAD_BYTES]
    format = sniff(head)
    if format is None or kind_of(head) != "image":
        detail = f"looks like {looks_like(head)}; pictures are JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
        raise RejectedError("unsupported_media", detail)
    if format == "heic":
        _register_heif()
    elif format == "avif" and not features.check("avif"):
        raise RejectedError("unsupported_media", "an AVIF picture; this Pillow was built without the decoder of these")
    return format


@cache
def _register_heif() -> None:
    """Let Pillow open HEIC by an extension; since `open_image` gives ``formats``, no other file reaches it."""
    try:
        import pillow_heif
    except ImportError:
        detail = "an HEIC picture; to read these, pip install 'mimicit[heic]', or convert them to JPEG"
        raise RejectedError("unsupported_media", detail) from None
    pillow_heif.register_heif_opener()


def _header(picture: Image.Image, format: str) -> ImageHeader:
    return ImageHeader(
        format=format,
        width=picture.width,
        height=picture.height,
        mode=picture.mode,
        orientation=_orientation(picture, format),
        animated=bool(getattr(picture, "is_animated", False)),
    )


def _orientation(picture: Image.Image, format: str) -> int:
    if format == "tiff":
        return 1  # Pillow itself turns TIFFs while it decodes them, and gives the size after the turn
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except PILLOW_ERRORS:
        return 1  # viewers show a picture with damaged EXIF as it is stored; so do we
    return value if value in range(1, 9) else 1


def _rejection(error: Exception, format: str, data: bytes, *, ends_early: bool) -> RejectedError:
    name = _PILLOW_NAMES[format]
    if isinstance(error, Image.DecompressionBombError):
        return RejectedError("too_many_pixels", f"{name}: {error}")
    if format == "webp":  # its decoder does not say why it failed, but the file states its length
        ends_early = len(data) < 8 + int.from_bytes(data[4:8], "little")
    elif format in ("avif", "heic"):
        ends_early = _lacks_boxes(data)
    elif format == "png":
        ends_early = ends_early or b"IEND" not in data
    if ends_early:
        return RejectedError("truncated_image", f"the {name} ends early, after {len(data):,} bytes")
    if isinstance(error, UnidentifiedImageError):
        return RejectedError("bad_media", f"the {name} header makes no sense")  # Pillow's gives an address
    return RejectedError("bad_media", f"the {name} cannot be decoded ({str(error) or type(error).__name__})")


def _lacks_boxes(data: bytes) -> bool:
    """Whether HEIF ``data`` ends within one of the boxes that it is made of, each with its length in front."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        size = int.from_bytes(data[place + 8 : place + 16], "big") if size == 1 else size
        if size < 8:
            return False  # 0: up to the end, wherever that is
        place += size
    return place != len(data)
