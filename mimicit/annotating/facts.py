"""What records say beside captions: boxes with labels, and what happens when in a clip.

- ``boxes``, ``objects``, ``regions`` or ``annotations`` in the free fields: a list of objects with a ``label``
  (``category``, ``name``, ``class``) and, if they like, a ``bbox`` or ``box`` of four numbers: x, y, width, height.
- ``instances_*.json`` of COCO: see `mimicit.annotating.coco_boxes`.
- ``moments``, ``segments``, ``events`` or ``subtitles``: a list of objects with ``start`` and ``end`` (seconds) and a
  ``text`` (``caption``, ``sentence``). A caption whose own free fields have ``start`` and ``end`` is one moment.
- A ``.srt`` or ``.vtt`` file beside a clip, of its name.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.files.root import Root
from mimicit.sources.items import InFile, MediaRef

__all__ = ["MOST_FACTS", "SUBTITLES", "Box", "Moment", "boxes_of", "is_box", "moments_beside", "moments_of"]

_BOX_FIELDS: Final = ("boxes", "objects", "regions", "annotations")
_LABELS: Final = ("label", "category", "name", "class", "phrase")
_MOMENT_FIELDS: Final = ("moments", "segments", "events", "subtitles")
_TEXTS: Final = ("text", "caption", "sentence")
MOST_FACTS: Final = 200
"""Of one record."""
_MOST_CHARACTERS: Final = 500
SUBTITLES: Final = (".srt", ".vtt")
_MOST_BYTES: Final = 4 << 20
_CUE: Final = re.compile(
    r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})\s*-->\s*(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})[^\n]*\n(.*?)(?:\n\s*\n|\Z)",
    re.DOTALL,
)
_TAG: Final = re.compile(r"<[^>\n]{0,100}>|\{[^}\n]{0,100}\}")


@dataclass(frozen=True, slots=True)
class Box:
    """Something with a ``label``; ``box`` is x, y, width, height as the record has them, where it says so."""

    label: str
    box: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """What a ``text`` says of a clip from ``start_s`` to ``end_s``, in seconds."""

    start_s: float
    end_s: float
    text: str


def boxes_of(meta: Mapping[str, Any]) -> Iterator[Box]:
    """The boxes among the free fields of a record."""
    for entry in _entries(meta, _BOX_FIELDS):
        label = next((entry[name] for name in _LABELS if isinstance(entry.get(name), str)), None)
        box = entry.get("bbox", entry.get("box"))
        numbers = tuple(map(float, box)) if is_box(box) else None
        if label:
            yield Box(label[:_MOST_CHARACTERS], numbers)


def is_box(value: Any) -> bool:
    """Whether ``value`` is a list of four finite numbers."""
    return _are_numbers(value) and len(value) == 4


def moments_of(meta: Mapping[str, Any], caption: str | None) -> Iterator[Moment]:
    """The moments among the free fields of a record, and its ``caption`` where they say when it holds."""
    for entry in _entries(meta, _MOMENT_FIELDS):
        text = next((entry[name] for name in _TEXTS if isinstance(entry.get(name), str)), None)
        yield from _moment(entry, text)
    yield from _moment(meta, caption)


def moments_beside(root: Root, media: Sequence[MediaRef]) -> tuple[Moment, ...]:
    """The subtitles beside the only clip of a record."""
    if len(media) != 1 or media[0].kind != "video" or not isinstance(media[0].parts[0], InFile):
        return ()
    stem = posixpath.splitext(media[0].parts[0].path)[0]
    for suffix in SUBTITLES:
        try:
            with root.open(f"{stem}{suffix}") as file:
                text = file.read(_MOST_BYTES).decode("utf-8-sig", "replace").replace("\r\n", "\n")
        except RejectedError:
            continue
        return tuple(_cues(text))
    return ()


def _cues(text: str) -> Iterator[Moment]:
    for number, found in enumerate(_CUE.finditer(text)):
        if number >= MOST_FACTS:
            return
        said = " ".join(_TAG.sub("", found[9]).split())
        if said:
            yield Moment(_seconds(found.groups()[:4]), _seconds(found.groups()[4:8]), said[:_MOST_CHARACTERS])


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction}")


def _moment(entry: Mapping[str, Any], text: str | None) -> Iterator[Moment]:
    span = entry.get("timestamp", (entry.get("start"), entry.get("end")))
    if text and _are_numbers(span) and len(span) == 2 and span[0] <= span[1]:
        yield Moment(float(span[0]), float(span[1]), text[:_MOST_CHARACTERS])


def _entries(meta: Mapping[str, Any], names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for name in names:
        value = meta.get(name)
        if isinstance(value, list):
            yield from (entry for entry in value[:MOST_FACTS] if isinstance(entry, dict))


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(part, int | float) and not isinstance(part, bool) and math.isfinite(part) for part in value
    )
