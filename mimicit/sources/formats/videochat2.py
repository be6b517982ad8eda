"""VideoChat2: ``[{"video": "a.mp4", "QA": [{"i": "...", "q": "...", "a": "..."}]}]``; pictures use ``image``.

``QA`` is one conversation about the clip. The instruction of a turn is ``i`` and ``q``, each on a line of its own;
either may be empty or absent. A record that is about a part of its clip (``start``, ``end``) is rejected: shown whole,
the clip would not fit the questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.containers.json_rows import json_rows
from mimicit.sources.files.finding import media_refs
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Needs, SourceFormat, SourceSpec
from mimicit.sources.items import Item, MediaRef
from mimicit.sources.records.claiming import claim_files
from mimicit.sources.records.conversations import Turn
from mimicit.sources.records.each_row import turns_of_rows
from mimicit.sources.records.pieces import split_json
from mimicit.sources.records.text import checked_meta, shown
from mimicit.sources.sniff import Fields

_MEDIA_KEYS: Final[dict[str, MediaKind]] = {"video": "video", "image": "image"}
_PART_KEYS: Final = ("start", "end")
_KNOWN_KEYS: Final = frozenset({"id", "QA", *_MEDIA_KEYS, *_PART_KEYS})


def _fits(root: Root, path: str, fields: Fields) -> bool:
    return fields.get("QA") == "array" and not _MEDIA_KEYS.keys().isdisjoint(fields)


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.paths:
        about = partial(_about, root, folder_of(path))
        yield from turns_of_rows(spec, json_rows(root, path, spec.piece), _turns, about)


VIDEOCHAT2: Final = SourceFormat(
    claim=claim_files("videochat2", "JSON records with a clip and a list QA", _fits),
    read=_read,
    split=split_json,
    by_record=True,
    needs=(Needs(("array", "lines"), (("QA",), ("video", "image"))),),
)


def _turns(row: Mapping[str, Any]) -> list[Turn]:
    talk = row.get("QA")
    if not isinstance(talk, list) or not talk or not all(isinstance(turn, dict) for turn in talk):
        raise RejectedError("malformed", f"QA must be a list of objects, not {shown(talk)}")
    return [Turn(_question(turn), turn.get("a")) for turn in talk]


def _question(turn: Mapping[str, Any]) -> object:
    """``i`` and ``q`` as one text; a part that is not text is returned as it is, to be rejected later."""
    parts = [turn[key] for key in ("i", "q") if turn.get(key) not in (None, "")]
    return next((part for part in parts if not isinstance(part, str)), "\n".join(map(str, parts)))


def _about(root: Root, beside: str, row: Mapping[str, Any]) -> tuple[tuple[MediaRef, ...], dict[str, Any]]:
    medium = _medium(root, row, beside)
    return (medium,), checked_meta({key: value for key, value in row.items() if key not in _KNOWN_KEYS})


def _medium(root: Root, row: Mapping[str, Any], beside: str) -> MediaRef:
    if any(row.get(key) is not None for key in _PART_KEYS):
        raise RejectedError("unsupported_media", "the record is about a part of its clip; cut the clip beforehand")
    for key, kind in _MEDIA_KEYS.items():
        if row.get(key) is not None:
            (medium,) = media_refs(root, [row[key]], beside=beside, kind=kind)
            return medium
    raise RejectedError("malformed", "the record names neither a video nor an image")
