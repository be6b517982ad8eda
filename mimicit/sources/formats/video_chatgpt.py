"""Video-ChatGPT: ``[{"q": "...", "a": "...", "video_id": "v_k_ZXmr8pmrs"}]``; one record is one triplet.

``video_id`` is the name of the clip, with its extension or without (see `finding`). The id of a record is a hash of the
record, because many records ask about one clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from mimicit.placeholders import question_about
from mimicit.sources.containers.json_rows import json_rows
from mimicit.sources.files.finding import CLIP_EXTENSIONS, media_ref
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Needs, SourceFormat, SourceSpec
from mimicit.sources.items import Item, RawTriplet
from mimicit.sources.records.captions import instruction_or_caption
from mimicit.sources.records.claiming import claim_files
from mimicit.sources.records.each_row import triplets_of_rows
from mimicit.sources.records.pieces import split_json
from mimicit.sources.records.text import checked_answer, checked_id, checked_meta
from mimicit.sources.sniff import Fields

_KNOWN_KEYS: Final = frozenset({"id", "q", "a", "video_id"})


def _fits(root: Root, path: str, fields: Fields) -> bool:
    return {"q", "a", "video_id"} <= fields.keys()


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.paths:
        yield from triplets_of_rows(spec, json_rows(root, path, spec.piece), partial(_triplet, root, folder_of(path)))


VIDEO_CHATGPT: Final = SourceFormat(
    claim=claim_files("video-chatgpt", "JSON records with q, a and video_id", _fits),
    read=_read,
    split=split_json,
    by_record=True,
    needs=(Needs(("array", "lines"), (("q",), ("a",), ("video_id",))),),
)


def _triplet(root: Root, beside: str, row: Mapping[str, Any], id: str, place: str) -> RawTriplet:
    name = checked_id(row.get("video_id"), "video_id")
    media = (media_ref(root, name, beside=beside, extensions=CLIP_EXTENSIONS, kind="video"),)
    return RawTriplet(
        id=id,
        place=place,
        media=media,
        instruction=instruction_or_caption(question_about(row.get("q"), [medium.kind for medium in media]), id, media),
        answer=checked_answer(row.get("a")),
        meta=checked_meta({key: value for key, value in row.items() if key not in _KNOWN_KEYS}),
    )
