"""Captions as LAVIS and BLIP list them: ``[{"image": "a.jpg", "caption": "..."}]``; of clips with ``video``.

``caption`` may be a list: every caption is one triplet, with ``_0``, ``_1``, ... after the id of the record. The id is
``id`` or ``instance_id``, else a hash of the record (``image_id`` is the same for all captions of a picture, and goes
to ``meta``). The instruction comes from a fixed pool, picked by a hash of the id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.base import Item, MediaRef, Needs, RawTriplet, Reject, SourceFormat, SourceSpec
from mimicit.sources.captioned import captioned
from mimicit.sources.claiming import claim_files
from mimicit.sources.finding import media_refs
from mimicit.sources.json_rows import json_rows
from mimicit.sources.media_names import folder_of
from mimicit.sources.root import Root
from mimicit.sources.sniff import Fields
from mimicit.sources.text import checked_id, derived_id

__all__ = ["CAPTION_LIST"]

_MEDIA_KEYS: Final[dict[str, MediaKind]] = {"image": "image", "video": "video"}
_ID_KEYS: Final = ("id", "instance_id")
_KNOWN_KEYS: Final = frozenset({"caption", *_ID_KEYS, *_MEDIA_KEYS})
_OTHER_FORMATS: Final = frozenset({"answer", "conversations", "document", "instruction", "messages", "question"})


def _fits(root: Root, path: str, fields: Fields) -> bool:
    return (
        fields.get("caption") in ("text", "base64", "array")
        and any(fields.get(key) == "text" for key in _MEDIA_KEYS)
        and _OTHER_FORMATS.isdisjoint(fields)
    )


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.files:
        for place, row in json_rows(root, path):
            id = ""
            try:
                if isinstance(row, RejectedError):
                    raise row
                id = _id(row)
            except RejectedError as error:
                yield spec.reject(error.reason, place=place, id=id, detail=error.detail)
            else:
                yield from _triplets(spec, root, row, folder_of(path), id=id, place=place)


CAPTION_LIST: Final = SourceFormat(
    claim=claim_files("captions", "JSON records with a caption and the name of a picture or clip", _fits),
    read=_read,
    by_record=True,
    needs=(Needs(("array", "lines"), (("image", "video"), ("caption",))),),
)


def _id(row: Mapping[str, Any]) -> str:
    given = next((row[key] for key in _ID_KEYS if row.get(key) is not None), None)
    return derived_id(row) if given is None else checked_id(given)


def _triplets(
    spec: SourceSpec, root: Root, row: Mapping[str, Any], beside: str, *, id: str, place: str
) -> Iterator[RawTriplet | Reject]:
    """One triplet or reject for each caption of the record; no caption at all is an empty one."""
    listed = row.get("caption")
    captions = listed if isinstance(listed, list) and listed else [None if listed == [] else listed]
    meta = {key: value for key, value in row.items() if key not in _KNOWN_KEYS}
    for number, caption in enumerate(captions):
        caption_id = f"{id}_{number}" if len(captions) > 1 else id
        try:
            medium = _medium(root, row, beside)
            yield captioned(caption, id=checked_id(caption_id), place=place, media=medium, meta=meta)
        except RejectedError as error:
            yield spec.reject(error.reason, place=place, id=caption_id, detail=error.detail)


def _medium(root: Root, row: Mapping[str, Any], beside: str) -> MediaRef:
    for key, kind in _MEDIA_KEYS.items():
        if row.get(key) is not None:
            (medium,) = media_refs(root, [row[key]], beside=beside, kind=kind)
            return medium
    raise RejectedError("malformed", "the record names neither an image nor a video")
