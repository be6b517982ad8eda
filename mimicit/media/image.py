"""One picture as it is stored: upright, RGB over white, no larger than asked; or its own bytes where they already are.

Cost: the decode dominates (640 x 480 JPEG: 3.5 ms). A JPEG that is to be shrunk is decoded at 1/2, 1/4 or 1/8 scale
inside libjpeg, as long as twice the target remains; that is 2.2 times faster at 1500 x 1000 and within 9/255 of the
full decode. A picture that needs no change is decoded once at the smallest scale, only to know that it is whole.
"""

from __future__ import annotations

import io
from typing import Final

from PIL import Image, JpegImagePlugin

from mimicit.media.image_file import ImageHeader, open_image
from mimicit.media.options import EncodedMedia, MediaOptions
from mimicit.media.pixels import REDUCING_GAP, compress, fit_within, has_foreign_profile, shrink, to_rgb, upright

__all__ = ["encode_image"]

_STORED_AS: Final = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_PNG_BIT_DEPTH_OFFSET: Final = 24


def encode_image(data: bytes, options: MediaOptions) -> EncodedMedia:
    """The picture ``data`` as it is stored.

    A file that already is what would be stored (format, size, 8-bit RGB, upright, one frame, no ICC profile but sRGB)
    passes through untouched, metadata included. The first frame stands for an animation.

    `RejectedError` is the only error: reasons of `probe_image`, found before or while decoding.
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
    """Whether the PNG ``data`` is whole and unharmed: decoding alone reads neither checksums nor the end."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as again:
        again.verify()


def _draft(picture: Image.Image, target: tuple[int, int]) -> None:
    """Let libjpeg scale while it decodes, to no less than `REDUCING_GAP` times the target."""
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        picture.draft(None, (int(target[0] * REDUCING_GAP), int(target[1] * REDUCING_GAP)))
