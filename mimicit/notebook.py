"""What a notebook shows of a medium, a triplet and a sample: plain HTML in which no text of the data can act.

The functions take values, not records: `mimicit.records` calls them for ``_repr_html_``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from mimicit.errors import CorruptShardError
from mimicit.stored_picture import thumbnail_url

__all__ = ["media_html", "sample_html", "triplet_html"]

_THUMBNAIL: Final = 128  # pixels
_MOST_FRAMES: Final = 8
_MOST_CHARACTERS: Final = 2000
_BOX: Final = "display:inline-block;vertical-align:top;margin:2px 8px 2px 0"
_AS_IT_IS: Final = 'class="tex2jax_ignore"'  # notebooks would take what stands between two dollars for a formula
_WORDS: Final = "white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate"


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


def _picture_html(data: bytes, size: tuple[int, int], alt: str) -> str:
    try:
        url = thumbnail_url(data, *size, _THUMBNAIL)
    except CorruptShardError as error:
        return f"<small>[{escape(str(error))}]</small>"
    return f'<img src="{url}" alt="{_text(alt)}" style="margin-right:2px">'


def _text(text: str) -> str:
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text):,} characters)"
    return escape(shown)
