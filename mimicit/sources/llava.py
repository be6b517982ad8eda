"""LLaVA-Instruct and its kin: a JSON array (or JSON Lines) of records with ``conversations`` about a picture or clip.

Every question with its answer is one triplet. The id is that of the record, with ``_0``, ``_1``, ... where a record
holds several. A record's media belong to the turns whose questions hold the placeholders (``<image>``; for a clip also
``<video>``), and to the turns after them until others are shown. There must be as many placeholders as media.

Accepted beside the documented form: whole numbers as ids and no id at all, no picture, a list of pictures (``image``
or ``images``), ``video`` and ``videos``, a placeholder at the end, a first turn that is not a question (skipped), the
names ``messages``, ``role`` and ``content`` of chat files, the speakers of ShareGPT (``chatgpt``, ``bing``, ``bard``;
what ``system`` says goes to ``meta``), and extra keys, which go to ``meta``. A record with sound is rejected: without
it, its questions would be about nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.base import Item, MediaRef, Needs, SourceFormat, SourceSpec
from mimicit.sources.claiming import claim_files
from mimicit.sources.each_row import talks_of_rows
from mimicit.sources.finding import media_refs
from mimicit.sources.json_rows import json_rows
from mimicit.sources.media_names import folder_of
from mimicit.sources.root import Root
from mimicit.sources.sniff import Fields
from mimicit.sources.talk import TALK_KEYS, system_text, turns_of
from mimicit.sources.text import checked_meta

__all__ = ["LLAVA"]

_MEDIA_KEYS: Final[dict[str, MediaKind | None]] = {"image": None, "images": None, "video": "video", "videos": "video"}
_SOUND_KEYS: Final = ("audio", "audios")
_KNOWN_KEYS: Final = frozenset({"id", *TALK_KEYS, *_MEDIA_KEYS})


def _fits(root: Root, path: str, fields: Fields) -> bool:
    return any(_is_talk(fields, key) for key in TALK_KEYS)


def _is_talk(fields: Fields, key: str) -> bool:
    names = {f"{key}[].from", f"{key}[].role"}
    return fields.get(key) == "array" and not names.isdisjoint(fields)


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.files:
        yield from talks_of_rows(spec, json_rows(root, path), turns_of, partial(_about, root, folder_of(path)))


LLAVA: Final = SourceFormat(
    claim=claim_files("llava", "JSON records with conversations", _fits),
    read=_read,
    ids_repeat=True,
    by_record=True,
    needs=(Needs(("array", "lines"), (("conversations[].from", "messages[].role"),)),),
)


def _about(root: Root, folder: str, record: Mapping[str, Any]) -> tuple[tuple[MediaRef, ...], dict[str, Any]]:
    free = {key: value for key, value in record.items() if key not in _KNOWN_KEYS}
    return _media(root, record, folder), checked_meta(free | system_text(record))


def _media(root: Root, record: Mapping[str, Any], folder: str) -> tuple[MediaRef, ...]:
    if any(record.get(key) for key in _SOUND_KEYS):
        raise RejectedError("unsupported_media", "the record is about sound, which no sample can hold")
    media: tuple[MediaRef, ...] = ()
    for key, kind in _MEDIA_KEYS.items():
        value = record.get(key)
        if value is not None and value != "":
            media += media_refs(root, value if isinstance(value, list) else [value], beside=folder, kind=kind)
    return media
