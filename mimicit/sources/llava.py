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
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.prompt import IMAGE
from mimicit.records import MediaKind
from mimicit.sources.base import Item, MediaRef, RawTriplet, Reject, SourceFormat, SourceSpec
from mimicit.sources.captions import instruction_or_caption
from mimicit.sources.json_rows import json_rows
from mimicit.sources.media_names import folder_of, media_refs
from mimicit.sources.root import Root
from mimicit.sources.sniff import Head
from mimicit.sources.text import checked_answer, checked_id, checked_meta, derived_id, shown

__all__ = ["LLAVA"]

_VIDEO: Final = "<video>"
_MEDIA_KEYS: Final[dict[str, MediaKind | None]] = {"image": None, "images": None, "video": "video", "videos": "video"}
_SOUND_KEYS: Final = ("audio", "audios")
_TALK_KEYS: Final = ("conversations", "messages")
_KNOWN_KEYS: Final = frozenset({"id", *_TALK_KEYS, *_MEDIA_KEYS})
_ASKS: Final = frozenset({"human", "user"})
_ANSWERS: Final = frozenset({"gpt", "assistant"})


@dataclass(frozen=True, slots=True)
class _Turn:
    """A question and its answer, as written; either is None where it is absent."""

    question: object
    answer: object


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    return [
        SourceSpec(
            name=path.rpartition(".")[0] or path,
            format="llava",
            files=(path,),
            why="JSON records with conversations" + (" (named by --format)" if force else ""),
        )
        for path, head in sorted(heads.items())
        if (head.kind in ("array", "lines") and any(_is_talk(head, key) for key in _TALK_KEYS))
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
                turns = _turns(record)
            except RejectedError as error:
                yield spec.reject(error.reason, place=place, id=id, detail=error.detail)
            else:
                yield from _triplets(spec, root, record, turns, id=id, place=place, folder=folder_of(path))


LLAVA: Final = SourceFormat(claim=_claim, read=_read)


def _triplets(
    spec: SourceSpec, root: Root, record: Mapping[str, Any], turns: Sequence[_Turn], *, id: str, place: str, folder: str
) -> Iterator[RawTriplet | Reject]:
    """One triplet or reject for each turn; a fault of the whole record rejects every turn."""
    ids = [id] if len(turns) == 1 else [f"{id}_{number}" for number in range(len(turns))]
    try:
        media = _media(root, record, folder)
        new_media = _new_media(turns, media)
        meta = checked_meta({key: value for key, value in record.items() if key not in _KNOWN_KEYS})
    except RejectedError as error:
        for turn_id in ids:
            yield spec.reject(error.reason, place=place, id=turn_id, detail=error.detail)
        return
    shown_last: tuple[MediaRef, ...] = ()
    for number, (turn, turn_id, new) in enumerate(zip(turns, ids, new_media, strict=True)):
        shown_last = new or shown_last
        try:
            question = _without_placeholders(turn.question, media)
            yield RawTriplet(
                id=checked_id(turn_id),
                place=place,
                media=shown_last,
                instruction=instruction_or_caption(question, turn_id, new),
                answer=checked_answer(turn.answer),
                conversation=id,
                turn=number,
                meta=meta,
            )
        except RejectedError as error:
            yield spec.reject(error.reason, place=place, id=turn_id, detail=error.detail)


def _turns(record: Mapping[str, Any]) -> list[_Turn]:
    """The questions with their answers, in order.

    What is said before the first question is skipped; an answer that follows an answer is a turn without a question.
    """
    talk = next((record[key] for key in _TALK_KEYS if key in record), None)
    if not isinstance(talk, list):
        raise RejectedError("malformed", f"conversations must be a list, not {shown(talk)}")
    turns: list[_Turn] = []
    open_question: object = None
    asked = False
    for number, entry in enumerate(talk):
        speaker, text = _said(entry, number)
        if speaker in _ASKS:
            if asked:
                turns.append(_Turn(open_question, None))
            open_question, asked = text, True
        elif speaker in _ANSWERS and (asked or turns):
            turns.append(_Turn(open_question if asked else None, text))
            asked = False
        elif asked or turns:
            raise RejectedError("malformed", f"conversations[{number}] is from {shown(speaker)}, not from human or gpt")
    if asked:
        turns.append(_Turn(open_question, None))
    if not turns:
        raise RejectedError("malformed", "the conversation has no question")
    return turns


def _said(entry: object, number: int) -> tuple[str, object]:
    if not isinstance(entry, dict):
        raise RejectedError("malformed", f"conversations[{number}] must be an object, not {shown(entry)}")
    speaker = entry.get("from", entry.get("role"))
    if not isinstance(speaker, str):
        raise RejectedError("malformed", f"conversations[{number}].from must be text, not {shown(speaker)}")
    return speaker, entry.get("value", entry.get("content"))


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


def _new_media(turns: Sequence[_Turn], media: tuple[MediaRef, ...]) -> list[tuple[MediaRef, ...]]:
    """The media that each turn shows anew: as many as its question has placeholders."""
    counts = [len(_pieces(turn.question, media)) - 1 for turn in turns]
    if sum(counts) != len(media):
        raise RejectedError("placeholder_mismatch", f"{sum(counts)} placeholders for {len(media)} pictures or clips")
    return [media[end - count : end] for end, count in zip(accumulate(counts), counts, strict=True)]


def _without_placeholders(question: object, media: Sequence[MediaRef]) -> object:
    if question is None:
        raise RejectedError("malformed", "the answer follows no question")
    if not isinstance(question, str):
        return question
    return " ".join(piece.strip() for piece in _pieces(question, media) if piece.strip())


def _pieces(question: object, media: Sequence[MediaRef]) -> list[str]:
    """The text between the placeholders of ``question``. ``<video>`` is a placeholder only where there is a clip."""
    text = question if isinstance(question, str) else ""
    if any(medium.kind == "video" for medium in media):
        text = text.replace(_VIDEO, IMAGE)
    return text.split(IMAGE)
