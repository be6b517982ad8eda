"""VideoChat2: ``[{"video": "a.mp4", "QA": [{"i": "...", "q": "...", "a": "..."}]}]``; of pictures with ``image``.

``QA`` is one conversation about the clip. The instruction of a turn is ``i`` and ``q``, each on a line of its own;
either may be empty or absent. A record that is about a part of its clip (``start``, ``end``) is rejected: shown whole,
the clip would not fit the questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.base import Item, MediaRef, SourceFormat, SourceSpec
from mimicit.sources.claiming import claim_files
from mimicit.sources.json_rows import json_rows
from mimicit.sources.media_names import media_refs
from mimicit.sources.probing import usual_folders
from mimicit.sources.root import Root
from mimicit.sources.sniff import Head
from mimicit.sources.talk import Turn, rejected_turns, talk_triplets
from mimicit.sources.text import checked_id, checked_meta, derived_id, shown

__all__ = ["VIDEOCHAT2"]

_MEDIA_KEYS: Final[dict[str, MediaKind]] = {"video": "video", "image": "image"}
_PART_KEYS: Final = ("start", "end")
_KNOWN_KEYS: Final = frozenset({"id", "QA", *_MEDIA_KEYS, *_PART_KEYS})


def _fits(root: Root, path: str, head: Head) -> bool:
    return head.fields.get("QA") == "array" and not _MEDIA_KEYS.keys().isdisjoint(head.fields)


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.files:
        folders = usual_folders(root, path, "videos", "images")
        for place, row in json_rows(root, path):
            id = ""
            try:
                if isinstance(row, RejectedError):
                    raise row
                id = checked_id(row["id"]) if row.get("id") is not None else derived_id(row)
                turns = _turns(row.get("QA"))
            except RejectedError as error:
                yield spec.reject(error.reason, place=place, id=id, detail=error.detail)
                continue
            try:
                media = (_medium(root, row, folders),)
                meta = checked_meta({key: value for key, value in row.items() if key not in _KNOWN_KEYS})
            except RejectedError as error:
                yield from rejected_turns(spec, turns, error, id=id, place=place)
                continue
            yield from talk_triplets(spec, turns, media=media, meta=meta, id=id, place=place, placeholders_needed=False)


VIDEOCHAT2: Final = SourceFormat(
    claim=claim_files("videochat2", "JSON records with a clip and a list QA", _fits), read=_read
)


def _turns(talk: object) -> list[Turn]:
    if not isinstance(talk, list) or not talk or not all(isinstance(turn, dict) for turn in talk):
        raise RejectedError("malformed", f"QA must be a list of objects, not {shown(talk)}")
    return [Turn(_question(turn), turn.get("a")) for turn in talk]


def _question(turn: Mapping[str, Any]) -> object:
    """``i`` and ``q`` as one text; what is no text is handed on as it is, to be refused."""
    parts = [turn[key] for key in ("i", "q") if turn.get(key) not in (None, "")]
    return next((part for part in parts if not isinstance(part, str)), "\n".join(map(str, parts)))


def _medium(root: Root, row: Mapping[str, Any], folders: tuple[str, ...]) -> MediaRef:
    if any(row.get(key) is not None for key in _PART_KEYS):
        raise RejectedError("unsupported_media", "the record is about a part of its clip; cut the clip beforehand")
    for key, kind in _MEDIA_KEYS.items():
        if row.get(key) is not None:
            (medium,) = media_refs(root, [row[key]], beside=folders, kind=kind)
            return medium
    raise RejectedError("malformed", "the record names neither a video nor an image")
