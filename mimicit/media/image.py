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
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image, JpegImagePlugin

from mimicit.errors import RejectedError
from mimicit.media import EncodedMedia, MediaOptions
from mimicit.media.image_file import ImageHeader, open_image
from mimicit.media.pixels import REDUCING_GAP, compress, fit_within, has_foreign_profile, shrink, to_rgb, upright

_STORED_AS: Final = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_PNG_BIT_DEPTH_OFFSET: Final = 24

_OPTIONS: Final = MediaOptions()

_COLUMNS: Final = 9
_ROWS: Final = 8
_LEAST_CONTRAST: Final = 8  # of 255; below it the bits are noise, and all plain pictures would look alike


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
