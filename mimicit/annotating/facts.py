"""What records say besides captions: boxes with labels, and what happens when in a clip.

- ``boxes``, ``objects``, ``regions`` or ``annotations`` in the free fields: a list of objects with a ``label``
  (``category``, ``name``, ``class``) and optionally a ``bbox`` or ``box`` of four numbers: x, y, width, height.
- ``instances_*.json`` of COCO: ``images``, ``annotations`` (``image_id``, ``category_id``, ``bbox``), ``categories``.
  Boxes come as fractions of the sides of their picture if the file states its size.
- ``moments``, ``segments``, ``events`` or ``subtitles``: a list of objects with ``start`` and ``end`` (seconds) and a
  ``text`` (``caption``, ``sentence``). A caption whose own free fields have ``start`` and ``end`` is one moment.
- A ``.srt`` or ``.vtt`` file next to a clip, with the same name.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import orjson

from mimicit.errors import RejectedError
from mimicit.sources.containers.disk_table import DiskTable
from mimicit.sources.containers.json_members import first_of_members, member_rows
from mimicit.sources.files.finding import media_refs
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.items import Entry, InFile, MediaRef
from mimicit.sources.records.text import checked_id, checked_text
from mimicit.sources.sniff import sniff

_BOX_FIELDS: Final = ("boxes", "objects", "regions", "annotations")
_LABELS: Final = ("label", "category", "name", "class", "phrase")
_MOMENT_FIELDS: Final = ("moments", "segments", "events", "subtitles")
_TEXTS: Final = ("text", "caption", "sentence")
MOST_FACTS: Final = 200
"""The most facts of one kind for one record."""
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
    """Something with a ``label``; ``box`` is x, y, width, height as the record has them, if it does."""

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
    """The moments among the free fields of a record, and its ``caption`` if they say when it holds."""
    for entry in _entries(meta, _MOMENT_FIELDS):
        text = next((entry[name] for name in _TEXTS if isinstance(entry.get(name), str)), None)
        yield from _moment(entry, text)
    yield from _moment(meta, caption)


def moments_beside(root: Root, media: Sequence[MediaRef]) -> tuple[Moment, ...]:
    """The subtitles next to the clip of a record with only that clip."""
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


_MEMBERS: Final = {"images": {"id", "file_name"}, "annotations": {"image_id", "category_id", "bbox"}}
_MOST_CATEGORIES: Final = 100_000  # all are held in memory
_DIGITS: Final = 4


def holds_boxes(root: Root, path: str) -> bool:
    """Whether the file at ``path`` lists pictures and boxes with categories on them."""
    head = sniff(root, path)
    if head.kind not in ("object", "lines") or not head.any(
        lambda fields: "images[].file_name" in fields or "annotations[].bbox" in fields
    ):
        return False
    first = first_of_members(root, path)
    return all(
        isinstance(first.get(member), dict) and fields <= first[member].keys() for member, fields in _MEMBERS.items()
    )


def read_boxes(root: Root, path: str, left_out: Counter[str]) -> Iterator[tuple[str, Box]]:
    """(path of the picture, box) for every annotation of the file at ``path``, in its order.

    ``left_out`` counts, by reason, the annotations that give no box. `SourceError` if the file is damaged.
    """
    split = path.rpartition("/")[2].partition(".")[0].rpartition("_")[2]
    names = dict(_names(root, path))
    with DiskTable() as pictures:
        for _, row, *_ in member_rows(root, path, "images"):
            if not isinstance(row, RejectedError):
                _enter_picture(root, pictures, path, split, row)
        for _, row, *_ in member_rows(root, path, "annotations"):
            try:
                if isinstance(row, RejectedError):
                    raise row
                yield _box_of(row, names, pictures)
            except RejectedError as error:
                left_out[error.reason] += 1


def _names(root: Root, path: str) -> Iterator[tuple[str, str]]:
    for _, row, *_ in islice(member_rows(root, path, "categories"), _MOST_CATEGORIES):
        try:
            if isinstance(row, RejectedError):
                raise row
            yield checked_id(row.get("id")), checked_text(row.get("name"), "name")
        except RejectedError:
            continue  # the annotations that need it are counted


def _enter_picture(root: Root, pictures: DiskTable, path: str, split: str, row: Mapping[str, Any]) -> None:
    """Enter where the picture of ``row`` lies, and its size; a missing picture is counted with its annotations."""
    try:
        (ref,) = media_refs(root, [row.get("file_name")], beside=folder_of(path), kind="image", hints=(split,))
        id = checked_id(row.get("id"))
    except RejectedError:
        return
    if isinstance(ref.parts[0], InFile):
        value = orjson.dumps([ref.parts[0].path, row.get("width"), row.get("height")]).decode()
        pictures.add_all([Entry(id, value, "")])


def _box_of(row: Mapping[str, Any], names: Mapping[str, str], pictures: DiskTable) -> tuple[str, Box]:
    name = names.get(checked_id(row.get("category_id"), "category_id"))
    if not name:
        raise RejectedError("unknown_category", "category_id is none of the categories")
    found = pictures.get(checked_id(row.get("image_id"), "image_id"))
    if found is None:
        raise RejectedError("missing_file", "image_id is no picture that is there")
    path, width, height = orjson.loads(found)
    box: Any = row.get("bbox")
    if not is_box(box):
        raise RejectedError("malformed", "bbox must be four numbers")
    if all(isinstance(side, int | float) and side > 0 for side in (width, height)):
        sides = (width, height, width, height)
        box = [min(max(round(place / side, _DIGITS), 0.0), 1.0) for place, side in zip(box, sides, strict=True)]
    return path, Box(name, tuple(map(float, box)))
