"""MiniGPT-4's aligned captions: ``{"annotations": [{"image_id": "2", "caption": "..."}]}``, pictures in ``image/``.

``image_id`` is the name of the picture without its extension, and the id of the triplet; a number tells the ids of
several captions of one picture apart. The instruction comes from a fixed pool, picked by a hash of the id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from mimicit.sources.containers.json_members import first_of_members, member_rows
from mimicit.sources.files.finding import PICTURE_EXTENSIONS, media_ref
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Needs, SourceFormat, SourceSpec
from mimicit.sources.items import Item, Piece, RawTriplet
from mimicit.sources.records.captions import captioned
from mimicit.sources.records.claiming import claim_files
from mimicit.sources.records.each_row import triplets_of_rows
from mimicit.sources.records.pieces import cut_list
from mimicit.sources.records.text import checked_id
from mimicit.sources.sniff import Fields

_KNOWN_KEYS: Final = frozenset({"image_id", "caption"})


def _fits(root: Root, path: str, fields: Fields) -> bool:
    known = {f"annotations[].{key}" for key in _KNOWN_KEYS} <= fields.keys()
    return known and "images" not in first_of_members(root, path)  # with images by id, it is COCO's


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.paths:
        triplet = partial(_triplet, root, folder_of(path))
        yield from triplets_of_rows(spec, member_rows(root, path, "annotations", spec.piece), triplet, _picture_id)


def _split(spec: SourceSpec, root: Root) -> list[Piece]:
    return [piece for path in spec.files for piece in cut_list("annotations")(root, path)]


MINIGPT4: Final = SourceFormat(
    claim=claim_files("minigpt4", "annotations with captions by picture name", _fits, ("object", "lines")),
    read=_read,
    split=_split,
    ids_repeat=True,
    needs=(Needs(("object", "lines"), (("annotations[].image_id",), ("annotations[].caption",))),),
)


def _picture_id(row: Mapping[str, Any]) -> str:
    return checked_id(row.get("image_id"), "image_id")


def _triplet(root: Root, beside: str, row: Mapping[str, Any], id: str, place: str) -> RawTriplet:
    medium = media_ref(root, id, beside=beside, extensions=PICTURE_EXTENSIONS, kind="image")
    meta = {key: value for key, value in row.items() if key not in _KNOWN_KEYS}
    return captioned(row.get("caption"), id=id, place=place, media=medium, meta=meta)
