"""COCO captions: one JSON object with ``images`` (id, file name) and ``annotations`` (picture id, caption).

Every caption is one triplet with the id of its annotation; its instruction comes from a fixed pool, picked by a hash of
that id. Pictures are looked for first in a folder named after the split (``train2017`` of ``captions_train2017.json``),
then where all formats look (see `finding`). File names are kept on disk until captions need them. Files of the same
shape without captions (instances, keypoints) are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.containers.disk_table import read_joined
from mimicit.sources.containers.json_members import first_of_members, member_rows
from mimicit.sources.files.finding import media_refs
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Join, Lookup, Needs, SourceFormat, SourceSpec
from mimicit.sources.items import Entry, Item, Piece, RawTriplet, Reject
from mimicit.sources.records.captions import captioned
from mimicit.sources.records.claiming import claim_files
from mimicit.sources.records.each_row import triplets_of_rows
from mimicit.sources.records.pieces import cut_list, joined_pieces
from mimicit.sources.records.text import checked_id, is_unicode, shown
from mimicit.sources.sniff import Fields

_KNOWN_KEYS: Final = frozenset({"id", "caption"})


def _fits(root: Root, path: str, fields: Fields) -> bool:
    # The pictures alone are longer than the head; only a pass over the file tells captions from other annotations.
    if "images[].file_name" not in fields and "annotations[].caption" not in fields:
        return False
    first = first_of_members(root, path)
    picture, annotation = first.get("images"), first.get("annotations")
    return (
        isinstance(picture, dict)
        and "file_name" in picture
        and isinstance(annotation, dict)
        and {"image_id", "caption"} <= annotation.keys()
    )


def _captions(spec: SourceSpec, root: Root, names: Lookup) -> Iterator[Item]:
    (path,) = spec.files
    split = path.rpartition("/")[2].partition(".")[0].rpartition("_")[2]
    triplet = partial(_triplet, root, names, folder_of(path), split)
    yield from triplets_of_rows(spec, member_rows(root, path, "annotations", spec.piece), triplet, _own_id)


def _names(spec: SourceSpec, root: Root) -> Iterator[Entry | Reject]:
    for place, row, *_ in member_rows(root, spec.files[0], "images", spec.piece):
        id = ""
        try:
            if isinstance(row, RejectedError):
                raise row
            id = checked_id(row.get("id"))
            name = row.get("file_name")
            if not isinstance(name, str) or not is_unicode(name):
                raise RejectedError("malformed", f"file_name must be text, not {shown(name)}")
            yield Entry(id, name, place)
        except RejectedError as error:
            yield spec.reject(error.reason, place=place, id=id, detail=error.detail, scope="media")


def _repeated(spec: SourceSpec, name: Entry) -> Reject:
    detail = "this picture id was used before; the first file keeps it"
    return spec.reject("duplicate_id", place=name.place, id=name.key, detail=detail, scope="media")


def _split(spec: SourceSpec, root: Root) -> list[Piece]:
    (path,) = spec.files
    return joined_pieces(cut_list("images")(root, path), cut_list("annotations")(root, path))


_JOIN: Final = Join(entries=_names, records=_captions, repeated=_repeated)
COCO_CAPTIONS: Final = SourceFormat(
    claim=claim_files("coco-captions", "annotations with captions, and images by id", _fits, ("object", "lines")),
    read=partial(read_joined, _JOIN),
    split=_split,
    join=_JOIN,
    needs=(
        Needs(("object", "lines"), (("images[].file_name",), ("annotations[].image_id",), ("annotations[].caption",))),
    ),
)


def _own_id(row: Mapping[str, Any]) -> str:
    return checked_id(row.get("id"))


def _triplet(
    root: Root, names: Lookup, beside: str, split: str, row: Mapping[str, Any], id: str, place: str
) -> RawTriplet:
    picture = checked_id(row.get("image_id"), "image_id")
    name = names.get(picture)
    if name is None:
        raise RejectedError("dangling_reference", f"image_id {picture} is none of the images of the file")
    (media,) = media_refs(root, [name], beside=beside, kind="image", hints=(split,))
    meta = {key: value for key, value in row.items() if key not in _KNOWN_KEYS}
    return captioned(row.get("caption"), id=id, place=place, media=media, meta=meta)
