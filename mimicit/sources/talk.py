"""Conversations: from a list of what was said, and the media it is about, to a triplet for each answer.

A talk's media belong to the turns whose questions hold the placeholders (``<image>``; for a clip also ``<video>``), and
to the turns after them until others are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.prompt import IMAGE
from mimicit.sources.base import MediaRef, RawTriplet, Reject, SourceSpec
from mimicit.sources.captions import instruction_or_caption
from mimicit.sources.text import checked_answer, checked_id, shown

__all__ = ["TALK_KEYS", "Turn", "rejected_turns", "system_text", "talk_triplets", "turns_of"]

TALK_KEYS: Final = ("conversations", "messages")
"""The fields that hold a conversation, in the order in which they are looked for."""

_VIDEO: Final = "<video>"
_ASKS: Final = frozenset({"human", "user"})
_ANSWERS: Final = frozenset({"assistant", "bard", "bing", "chatgpt", "gpt"})
_SYSTEM: Final = "system"


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, as written; either is None where it is absent."""

    question: object
    answer: object


def turns_of(record: Mapping[str, Any]) -> list[Turn]:
    """The questions of ``record`` with their answers, in order; `RejectedError` ``malformed`` where there are none.

    What is said before the first question is skipped, and so is what ``system`` says, wherever it stands (see
    `system_text`). An answer that follows an answer is a turn without a question.
    """
    talk = _talk(record)
    if not isinstance(talk, list):
        raise RejectedError("malformed", f"conversations must be a list, not {shown(talk)}")
    turns: list[Turn] = []
    open_question: object = None
    asked = False
    for number, entry in enumerate(talk):
        speaker, text = _said(entry, number)
        if speaker == _SYSTEM:
            continue
        if speaker in _ASKS:
            if asked:
                turns.append(Turn(open_question, None))
            open_question, asked = text, True
        elif speaker in _ANSWERS and (asked or turns):
            turns.append(Turn(open_question if asked else None, text))
            asked = False
        elif asked or turns:
            raise RejectedError("malformed", f"conversations[{number}] is from {shown(speaker)}, not from human or gpt")
    if asked:
        turns.append(Turn(open_question, None))
    if not turns:
        raise RejectedError("malformed", "the conversation has no question")
    return turns


def system_text(record: Mapping[str, Any]) -> dict[str, str]:
    """What ``system`` says first in the conversation of ``record``, as a free field of that name; empty if nothing.

    A field ``system`` of the record itself wins.
    """
    talk = _talk(record)
    for entry in talk if isinstance(talk, list) and _SYSTEM not in record else ():
        if isinstance(entry, dict) and entry.get("from", entry.get("role")) == _SYSTEM:
            text = entry.get("value", entry.get("content"))
            return {_SYSTEM: text} if isinstance(text, str) else {}
    return {}


def talk_triplets(
    spec: SourceSpec,
    turns: Sequence[Turn],
    *,
    media: tuple[MediaRef, ...],
    meta: Mapping[str, Any],
    id: str,
    place: str,
    placeholders_needed: bool = True,
) -> Iterator[RawTriplet | Reject]:
    """One triplet or reject for each of the ``turns`` of the record ``id``.

    The id of a turn is that of the record, with ``_0``, ``_1``, ... where there are several. A talk whose placeholders
    do not match ``media`` in number is rejected whole; without ``placeholders_needed``, one that has none shows all
    media first.
    """
    try:
        new_media = _new_media(turns, media, placeholders_needed=placeholders_needed)
    except RejectedError as error:
        yield from rejected_turns(spec, turns, error, id=id, place=place)
        return
    shown_last: tuple[MediaRef, ...] = ()
    for number, (turn, turn_id, new) in enumerate(zip(turns, _turn_ids(id, turns), new_media, strict=True)):
        shown_last = new or shown_last
        try:
            question = _without_placeholders(turn.question, media)
            yield RawTriplet(
                id=checked_id(turn_id),
                place=place,
                media=shown_last,
                instruction=instruction_or_caption(question, turn_id, new),
                answer=checked_answer(turn.answer),
                conversation=place,  # ids of talks repeat: LLaVA's name the picture
                turn=number,
                meta=meta,
            )
        except RejectedError as error:
            yield spec.reject(error.reason, place=place, id=turn_id, detail=error.detail)


def rejected_turns(
    spec: SourceSpec, turns: Sequence[Turn], error: RejectedError, *, id: str, place: str
) -> Iterator[Reject]:
    """A reject for each of the ``turns``, for a fault of the whole record ``id``."""
    for turn_id in _turn_ids(id, turns):
        yield spec.reject(error.reason, place=place, id=turn_id, detail=error.detail)


def _turn_ids(id: str, turns: Sequence[Turn]) -> list[str]:
    return [id] if len(turns) == 1 else [f"{id}_{number}" for number in range(len(turns))]


def _talk(record: Mapping[str, Any]) -> object:
    return next((record[key] for key in TALK_KEYS if key in record), None)


def _said(entry: object, number: int) -> tuple[str, object]:
    if not isinstance(entry, dict):
        raise RejectedError("malformed", f"conversations[{number}] must be an object, not {shown(entry)}")
    speaker = entry.get("from", entry.get("role"))
    if not isinstance(speaker, str):
        raise RejectedError("malformed", f"conversations[{number}].from must be text, not {shown(speaker)}")
    return speaker, entry.get("value", entry.get("content"))


def _new_media(
    turns: Sequence[Turn], media: tuple[MediaRef, ...], *, placeholders_needed: bool
) -> list[tuple[MediaRef, ...]]:
    """The media that each turn shows anew: as many as its question has placeholders."""
    counts = [len(_pieces(turn.question, media)) - 1 for turn in turns]
    if not placeholders_needed and not any(counts):
        counts[0] = len(media)
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
