"""What a notebook shows of a medium, a triplet and a sample: plain HTML with all text of the data escaped.

The functions take values, not records: `mimicit.records` calls them for ``_repr_html_``.

Stored pictures become Pillow images (`decode_stored`) or small ``data:`` URLs. Shards hold JPEG, PNG and WebP alone,
and the sample says how large each picture is: anything else is refused before a pixel is decoded, so a hostile shard
costs no more memory than it claims.
"""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from mimicit.errors import CorruptShardError

if TYPE_CHECKING:
    from PIL import Image

_THUMBNAIL: Final = 128  # pixels
_MOST_FRAMES: Final = 8
_MOST_CHARACTERS: Final = 2000
_BOX: Final = "display:inline-block;vertical-align:top;margin:2px 8px 2px 0"
_AS_IT_IS: Final = 'class="tex2jax_ignore"'  # else notebooks read text between two dollar signs as a formula
_WORDS: Final = "white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate"

_FORMATS: Final = ("JPEG", "PNG", "WEBP")
_MOST_PIXELS: Final = 89_000_000  # Pillow warns above
# What Pillow has been seen to raise on damaged files of these formats.
_FAULTS: Final = (OSError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError, struct.error, zlib.error)


def media_html(kind: str, size: tuple[int, int], origin: str, files: int, data: Sequence[bytes]) -> str:
    """A picture, or the first frames of a clip, over a caption; ``size`` is (width, height) in pixels."""
    shown = "".join(_picture_html(frame, size, f"{kind} from {origin}") for frame in data[:_MOST_FRAMES])
    frames = f", {files} frames" if kind == "video" else ""
    unread = "" if data else ", bytes not read"
    caption = f"{kind} {size[0]}×{size[1]}{frames}{unread}"
    return (
        f'<div {_AS_IT_IS} style="{_BOX}">{shown}<div><small>{caption} <bdi>{_text(origin)}</bdi></small></div></div>'
    )


def triplet_html(role: str, why: str, id: str, instruction: str, answer: str, media: str = "") -> str:
    """One triplet: its role, why it was chosen, its ``media`` (HTML), its instruction and answer."""
    reason = f" <small>({escape(why)})</small>" if why else ""
    return (
        f'<div {_AS_IT_IS} style="margin:4px 0 8px">'
        f"<div><b>{escape(role)}</b>{reason} <small><bdi>{_text(id)}</bdi></small></div>"
        f'{media}<div dir="auto" style="{_WORDS}">{_text(instruction)}</div>'
        f'<div dir="auto" style="{_WORDS}"><b>→</b> {_text(answer)}</div></div>'
    )


def sample_html(id: str, source: str, triplets: Sequence[str]) -> str:
    """A sample: its id and source over its ``triplets`` (HTML), the query last."""
    head = f"<div><b>Sample</b> <bdi>{_text(id)}</bdi> <small>of {escape(source)}</small></div>"
    return f"<div {_AS_IT_IS}>{head}{''.join(triplets)}</div>"


def decode_stored(data: bytes, width: int, height: int) -> Image.Image:
    """Decode the picture ``data``; `CorruptShardError` if it is damaged or not ``width`` x ``height`` pixels."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pictures that are refused below
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


def _picture_html(data: bytes, size: tuple[int, int], alt: str) -> str:
    try:
        url = thumbnail_url(data, *size, _THUMBNAIL)
    except CorruptShardError as error:
        return f"<small>[{escape(str(error))}]</small>"
    return f'<img src="{url}" alt="{_text(alt)}" style="margin-right:2px">'


def _text(text: str) -> str:
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text):,} characters)"
    return escape(shown)
