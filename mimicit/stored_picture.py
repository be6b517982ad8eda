"""A stored picture or frame as a Pillow image, or as a small ``data:`` URL to show on a page.

Shards hold JPEG, PNG and WebP alone, and the sample says how large each picture is: anything else is refused before a
pixel is decoded, so a hostile shard costs no more memory than it claims.
"""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Final

from mimicit.errors import CorruptShardError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["decode_stored", "thumbnail_url"]

_FORMATS: Final = ("JPEG", "PNG", "WEBP")
_MOST_PIXELS: Final = 89_000_000  # Pillow warns above
# What Pillow has been seen to raise on damaged files of these formats.
_FAULTS: Final = (OSError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError, struct.error, zlib.error)


def decode_stored(data: bytes, width: int, height: int) -> Image.Image:
    """The picture ``data``, which must be ``width`` x ``height`` pixels; `CorruptShardError` where it is not."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused here
            opened = Image.open(io.BytesIO(data), formats=_FORMATS)
        with opened as picture:
            found = picture.size
            if found == (width, height) and width * height > _MOST_PIXELS:
                detail = (
                    f"a stored picture of {width:,}x{height:,} pixels is not decoded; the limit is {_MOST_PIXELS:,}"
                )
                raise CorruptShardError(detail)
            if found == (width, height):
                picture.load()
                return picture.copy()
    except (*_FAULTS, Image.DecompressionBombError) as error:
        raise CorruptShardError(f"a stored picture is damaged ({error}); run mimicit verify") from None
    raise CorruptShardError(f"a stored picture is {found[0]}x{found[1]} pixels, its sample says {width}x{height}")


def thumbnail_url(data: bytes, width: int, height: int, longest: int) -> str:
    """The picture as the ``data:`` URL of a JPEG of at most ``longest`` pixels a side; errors as `decode_stored`."""
    picture = decode_stored(data, width, height).convert("RGB")
    picture.thumbnail((longest, longest))
    small = io.BytesIO()
    picture.save(small, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode()}"
