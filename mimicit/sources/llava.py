"""LLaVA-Instruct and its kin: a JSON array (or JSON Lines) of records with ``conversations`` about a picture or clip.

Every question with its answer is one triplet. The id is that of the record, with ``_0``, ``_1``, ... where a record
holds several. A record's media belong to the turns whose questions hold the placeholders (``<image>``; for a clip also
``<video>``), and to the turns after them until others are shown. There must be as many placeholders as media.

Accepted beside the documented form: whole numbers as ids and no id at all, no picture, a list of pictures (``image``
or ``images``), ``video`` and ``videos``, a placeholder at the end, a first turn that is not a question (skipped), the
names ``messages``, ``role`` and ``content`` of chat files, and extra keys, which go to ``meta``. A record with sound is
rejected: without it, its questions would be about nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.base import Item, MediaRef, RawTriplet, Reject, SourceFormat, SourceSpec
from mimicit.sources.json_rows import json_rows
from mimicit.sources.media_names import folder_of, media_refs
from mimicit.sources.root import Root
from mimicit.sources.sniff import Head
from mimicit.sources.talk import TALK_KEYS, Turn, rejected_turns, talk_triplets, turns_of
from mimicit.sources.text import checked_id, checked_meta, derived_id

__all__ = ["LLAVA"]

_MEDIA_KEYS: Final[dict[str, MediaKind | None]] = {"image": None, "images": None, "video": "video", "videos": "video"}
_SOUND_KEYS: Final = ("audio", "audios")
_KNOWN_KEYS: Final = frozenset({"id", *TALK_KEYS, *_MEDIA_KEYS})


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    return [
        SourceSpec(
            name=path.rpartition(".")[0] or path,
            format="llava",
            files=(path,),
            why="JSON records with conversations" + (" (named by --format)" if force else ""),
        )
        for path, head in sorted(heads.items())
        if (head.kind in ("array", "lines") and any(_is_talk(head, key) for key in TALK_KEYS))
        or (force and head.kind in ("array", "lines", "text"))
    ]


def _is_talk(head: Head, key: str) -> bool:
    names = {f"{key}[].from", f"{key}[].role"}
    return head.fields.get(key) == "array" and not names.isdisjoint(head.fields)


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.files:
        for place, record in json_rows(root, path):
            id = ""
            try:
                if isinstance(record, RejectedError):
                    raise record
                id = checked_id(record["id"]) if record.get("id") is not None else derived_id(record)
                turns = turns_of(record)
            except RejectedError as error:
                yield spec.reject(error.reason, place=place, id=id, detail=error.detail)
            else:
                yield from _triplets(spec, root, record, turns, id=id, place=place, folder=folder_of(path))


LLAVA: Final = SourceFormat(claim=_claim, read=_read, ids_repeat=True)


def _triplets(
    spec: SourceSpec, root: Root, record: Mapping[str, Any], turns: Sequence[Turn], *, id: str, place: str, folder: str
) -> Iterator[RawTriplet | Reject]:
    """One triplet or reject for each turn; a fault of the whole record rejects every turn."""
    try:
        media = _media(root, record, folder)
        meta = checked_meta({key: value for key, value in record.items() if key not in _KNOWN_KEYS})
    except RejectedError as error:
        yield from rejected_turns(spec, turns, error, id=id, place=place)
    else:
        yield from talk_triplets(spec, turns, media=media, meta=meta, id=id, place=place)


def _media(root: Root, record: Mapping[str, Any], folder: str) -> tuple[MediaRef, ...]:
    if any(record.get(key) for key in _SOUND_KEYS):
        raise RejectedError("unsupported_media", "the record is about sound, which no sample can hold")
    beside = (folder, "", f"{folder}/images" if folder else "images")
    media: tuple[MediaRef, ...] = ()
    for key, kind in _MEDIA_KEYS.items():
        value = record.get(key)
        if value is not None and value != "":
            media += media_refs(root, value if isinstance(value, list) else [value], beside=beside, kind=kind)
    return media
