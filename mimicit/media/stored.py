"""A picture or frame as shards hold it: JPEG, PNG or WebP of the size that its sample says.

What loads it for training and what verifies it open it here, so one refuses what the other reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image, JpegImagePlugin

from mimicit.errors import RejectedError
from mimicit.media.image_file import ImageHeader, open_image
from mimicit.media.options import MediaOptions

__all__ = ["check_stored", "open_stored"]

_OPTIONS: Final = MediaOptions()
_STORED: Final = ("jpeg", "png", "webp")


@contextmanager
def open_stored(data: bytes, width: int, height: int) -> Iterator[tuple[Image.Image, ImageHeader]]:
    """The stored picture ``data`` of ``width`` x ``height`` pixels, opened but not decoded; errors as `open_image`.

    `RejectedError` also where it is a picture of another format or size.
    """
    with open_image(data, _OPTIONS) as (picture, header):
        if header.format not in _STORED:
            raise RejectedError("unsupported_media", f"a {header.format} picture; shards hold {', '.join(_STORED)}")
        if (header.width, header.height) != (width, height):  # known before any pixel is decoded
            raise RejectedError("bad_media", f"{header.width}x{header.height} pixels, expected {width}x{height}")
        yield picture, header


def check_stored(data: bytes, width: int, height: int) -> None:
    """Decode the stored picture ``data`` as fast as that goes, only to know that it can be; errors as `open_stored`."""
    with open_stored(data, width, height) as (picture, _):
        if isinstance(picture, JpegImagePlugin.JpegImageFile):
            picture.draft(None, (1, 1))
        picture.load()
