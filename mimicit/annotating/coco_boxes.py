"""The boxes of COCO's ``instances_*.json``, with the names of their categories, by the pictures they lie on.

Such a file holds ``images``, ``annotations`` (``image_id``, ``category_id``, ``bbox``) and ``categories``, and no words
that a build could use. Boxes come as parts of the sides of their picture where the file tells its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import orjson

from mimicit.annotating.facts import Box, is_box
from mimicit.errors import RejectedError
from mimicit.sources.containers.disk_table import DiskTable
from mimicit.sources.containers.json_members import first_of_members, member_rows
from mimicit.sources.files.finding import media_refs
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.items import InFile
from mimicit.sources.records.text import checked_id, checked_text
from mimicit.sources.sniff import sniff

__all__ = ["holds_boxes", "read_boxes"]

_MEMBERS: Final = {"images": {"id", "file_name"}, "annotations": {"image_id", "category_id", "bbox"}}
_MOST_CATEGORIES: Final = 100_000  # all are held
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

    ``left_out`` counts, by their reasons, the annotations that give none. `SourceError` where the file is damaged.
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
    """Enter where the picture of ``row`` lies, and its size; one that is not there counts with its annotations."""
    try:
        (ref,) = media_refs(root, [row.get("file_name")], beside=folder_of(path), kind="image", hints=(split,))
        id = checked_id(row.get("id"))
    except RejectedError:
        return
    if isinstance(ref.parts[0], InFile):
        pictures.add(id, orjson.dumps([ref.parts[0].path, row.get("width"), row.get("height")]).decode())


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
