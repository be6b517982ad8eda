"""Conversations: a triplet for each answer, from what was said and the media it is about.

What is said is text, or a list of parts as chat programs write it: ``{"type": "text", "text": ...}``, ``{"type":
"image"}`` for the next picture of the record, ``{"type": "image_url", "image_url": {"url": ...}}`` for a picture that
the part itself names.
Media belong to the turns whose questions hold their placeholders (see `placeholders`), and to the turns after them
until others are shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.placeholders import place_media, with_words
from mimicit.prompt import IMAGE
from mimicit.records import MediaKind
from mimicit.sources.containers.json_rows import parsed
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Item, MediaRef, Note, RawTriplet, Reject
from mimicit.sources.records.captions import instruction_or_caption
from mimicit.sources.records.column_names import MEDIA_FIELDS
from mimicit.sources.records.text import checked_answer, checked_id, shown

CONVERSATION_FIELDS: Final = ("conversations", "messages", "conversation", "texts")
"""The fields that hold a conversation, in the order in which they are looked for."""

SOUND: Final = frozenset({"audio", "audios"})
"""The fields of records about sound."""

ASKS: Final = frozenset({"human", "user"})
ANSWERS: Final = frozenset({"assistant", "bard", "bing", "bot", "chatgpt", "gpt", "model"})
"""The speakers that ask and answer, in lower case."""

_SYSTEM: Final = "system"
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})
_SHOWN_PARTS: Final[dict[str, MediaKind | None]] = {
    "image": None,
    "image_url": None,
    "input_image": None,
    "video": "video",
    "video_url": "video",
}
_TAG: Final = re.compile(r"<img>([^<>\n]{1,4096}\.[A-Za-z0-9]{2,5})</img>")
_SPEAKER_KEYS: Final = ("from", "role", "speaker")
_PAIR: Final = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, as written; either is None if it is absent."""

    question: object
    answer: object


@dataclass(frozen=True, slots=True)
class ShownPart:
    """A part of what is said that shows something: ``value`` names it, and stands in the record at ``steps``.

    Without a ``value``, it is the medium ``number`` of the record, or else the next one. With ``is_tag``, a turn names
    it, in a field or in its text (``<img>1.jpg</img>``, as Qwen-VL writes it); if the record names media itself, such a
    part is only a placeholder.
    """

    kind: MediaKind | None
    value: object
    number: int | None
    steps: tuple[str | int, ...]
    is_tag: bool = False


@dataclass(slots=True)
class Conversation:
    """The ``turns`` in order, what their parts show, and what ``system`` says first.

    ``beside`` holds the other fields of entries that are a question with its answer (such as ``source``). ``used`` are
    the fields of the record that it is made of, besides the one that holds it.
    """

    turns: list[Turn] = field(default_factory=list)
    parts: list[ShownPart] = field(default_factory=list)
    system: str | None = None
    beside: dict[str, Any] = field(default_factory=dict)
    used: tuple[str, ...] = ()


def is_conversation(fields: Mapping[str, str]) -> bool:
    """Whether records with these ``fields`` hold conversations: the shape of JSON, or the columns of a table."""
    for key in CONVERSATION_FIELDS:
        kind = fields.get(key, "")
        if kind == "array":
            speakers = (f"{key}[].{name}" for name in (*_SPEAKER_KEYS, _PAIR[0]))
            if any(name in fields for name in speakers):
                return True
        elif any(all(f"{name}: " in kind for name in pair) for pair in (("from", "value"), ("role", "content"), _PAIR)):
            return True
    return False


def conversation_of(record: Mapping[str, Any]) -> tuple[str, Conversation] | None:
    """The field of ``record`` that holds a conversation, and the conversation; None if it has no such field.

    What is said before the first question is skipped, and so is what ``system`` says later. An answer that follows an
    answer is a turn without a question. `RejectedError` ``malformed`` if the field holds no conversation, or one
    without a question.
    """
    key = _field(record)
    if key is None:
        return None
    entries = record[key]
    if isinstance(entries, str):
        entries = parsed(entries.encode("utf-8", "replace"))
    if not isinstance(entries, list):
        raise RejectedError("malformed", f"{key} must be a list, not {shown(entries)}")
    found = Conversation()
    asked, question = False, None
    for number, entry in enumerate(entries):
        place = f"{key}[{number}]"
        if not isinstance(entry, dict):
            raise RejectedError("malformed", f"{place} must be an object, not {shown(entry)}")
        if _is_pair(entry):
            found.turns.append(Turn(entry.get("user"), entry.get("assistant")))
            _add_beside(found.beside, entry)
            continue
        role = _speaker(entry, place)
        text_key = next((name for name in ("value", "content", "text") if entry.get(name) is not None), "value")
        text = _text(entry.get(text_key), (key, number, text_key), found.parts)
        if role == "asks":
            text = _with_tags(text, entry, (key, number), text_key, found.parts)
        if role == _SYSTEM:
            found.system = text if found.system is None and isinstance(text, str) else found.system
        elif role == "asks":
            if asked:
                found.turns.append(Turn(question, None))
            question, asked = text, True
        elif role == "answers" and (asked or found.turns):
            found.turns.append(Turn(question if asked else None, text))
            asked = False
    if asked:
        found.turns.append(Turn(question, None))
    if not found.turns:
        raise RejectedError("malformed", "the conversation has no question")
    return key, found


def turn_items(
    spec: SourceSpec,
    turns: Sequence[Turn],
    *,
    media: tuple[MediaRef, ...],
    meta: Mapping[str, Any],
    id: str,
    place: str,
    marked: bool = True,
    strict: bool = False,
) -> Iterator[Item]:
    """One triplet or reject for each of the ``turns`` of the record ``id``.

    The id of a turn is that of the record, with ``_0``, ``_1``, ... if there are several. A record whose placeholders
    do not match ``media`` is rejected whole. If every question repeats the placeholders, the media are shown once, with
    a note. If there are none, all media are shown first, with a note, or the record is rejected if ``strict``; neither
    happens to records of a format without placeholders (not ``marked``).
    """
    try:
        placed = place_media([turn.question for turn in turns], [medium.kind for medium in media])
        if marked and strict and not placed.is_marked:
            raise RejectedError("placeholder_mismatch", f"0 placeholders for {len(media)} pictures or clips")
    except RejectedError as error:
        yield from rejected_turns(spec, turns, error, id=id, place=place)
        return
    if marked and not placed.is_marked:
        yield Note("shown_first", place)
    if placed.is_repeated:
        yield Note("shown_once", place)
    kinds = [medium.kind for medium in media]
    shown_last: tuple[MediaRef, ...] = ()
    for number, (turn, turn_id, question, numbers) in enumerate(
        zip(turns, _turn_ids(id, turns), placed.texts, placed.shown, strict=True)
    ):
        new = tuple(media[index] for index in numbers)
        shown_last = new or shown_last
        try:
            if question is None:
                raise RejectedError("malformed", "the answer follows no question")
            yield RawTriplet(
                id=checked_id(turn_id),
                place=place,
                media=shown_last,
                instruction=instruction_or_caption(question, turn_id, new),
                answer=checked_answer(with_words(turn.answer, kinds)),
                conversation=place,  # ids of records repeat: LLaVA's name the picture
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


def _field(record: Mapping[str, Any]) -> str | None:
    """The first field that may hold a conversation; a field that is null only if the record has no ``answer``."""
    present = [key for key in CONVERSATION_FIELDS if key in record]
    for key in present:
        value = record[key]
        if isinstance(value, list) and (
            key != "texts" or not all(isinstance(entry, str) for entry in value) or not value
        ):
            return key
        if isinstance(value, str) and value.lstrip().startswith("["):
            return key
        if value is not None and key in ("conversations", "messages"):
            return key
    return next((key for key in present if key in ("conversations", "messages") and "answer" not in record), None)


def _is_pair(entry: Mapping[str, Any]) -> bool:
    return any(name in entry for name in _PAIR) and not any(entry.get(name) for name in ("from", "role"))


def _add_beside(beside: dict[str, Any], entry: Mapping[str, Any]) -> None:
    for name, value in entry.items():
        if name not in _PAIR and isinstance(value, str):
            said = beside.setdefault(name, [])
            if value not in said:
                said.append(value)


def _speaker(entry: Mapping[str, Any], place: str) -> str:
    """What the speaker does: ``asks``, ``answers`` or ``system``."""
    name = next((entry[key] for key in _SPEAKER_KEYS if entry.get(key) is not None), None)
    if not isinstance(name, str):
        raise RejectedError("malformed", f"{place}.from must be text, not {shown(name)}")
    plain = name.strip().casefold()
    if plain in ASKS:
        return "asks"
    if plain in ANSWERS or plain == _SYSTEM:
        return _SYSTEM if plain == _SYSTEM else "answers"
    known = ", ".join((*sorted(ASKS), *sorted(ANSWERS), _SYSTEM))
    raise RejectedError("malformed", f"{place} is from {name!a:.60}; the speakers known are {known}")


def _text(said: object, steps: tuple[str | int, ...], parts: list[ShownPart]) -> object:
    """``said`` as one text, with a placeholder for each part that shows something; adds such parts to ``parts``."""
    if not isinstance(said, list):
        return said
    pieces: list[str | None] = []
    for number, part in enumerate(said):
        words = part if isinstance(part, str) else None
        if isinstance(part, dict):
            words = _part((*steps, number), part, parts)
        elif words is None:
            raise RejectedError("malformed", f"a part of what is said must be an object or text, not {shown(part)}")
        pieces.append(words)
    written = sum(words.count(IMAGE) for words in pieces if words)
    if written == pieces.count(None):  # the texts hold the placeholders of the parts themselves
        return "\n".join(words for words in pieces if words)
    text = ""
    was_text = False
    for words in pieces:
        text += words if words is not None and not (was_text and words) else f"\n{words}" if words else IMAGE
        was_text = words is not None
    return text


def _with_tags(
    text: object, entry: Mapping[str, Any], steps: tuple[str | int, ...], text_key: str, parts: list[ShownPart]
) -> object:
    """``text`` with a placeholder for each picture or clip that a tag in it names, or a field of its ``entry``."""
    if not isinstance(text, str):
        return text
    if "</img>" in text:
        text = _TAG.sub(partial(_tag, (*steps, text_key), parts), text)
    for name in (name for name in MEDIA_FIELDS if entry.get(name)):
        value = entry[name]
        named = [((*steps, name, n), one) for n, one in enumerate(value)] if isinstance(value, list) else None
        named = named or [((*steps, name), value)]
        if text.count(IMAGE) < len(named):
            text = f"{IMAGE * (len(named) - text.count(IMAGE))}{text}"
        parts.extend(ShownPart(MEDIA_FIELDS[name], one, None, place, is_tag=True) for place, one in named)
    return text


def _tag(steps: tuple[str | int, ...], parts: list[ShownPart], tag: re.Match[str]) -> str:
    """The placeholder that replaces a ``tag`` that names a picture; adds the picture to ``parts``."""
    parts.append(ShownPart(kind="image", value=tag[1], number=None, steps=steps, is_tag=True))
    return IMAGE


def _part(steps: tuple[str | int, ...], part: Mapping[str, Any], parts: list[ShownPart]) -> str | None:
    """The text of ``part``; None if it shows something, and is added to ``parts``."""
    fields = {name: value for name, value in part.items() if value is not None}  # tables write what is absent as null
    kind = fields.get("type") or next((name for name in ("text", *_SHOWN_PARTS) if name in fields), None)
    if kind in _TEXT_PARTS:
        text = fields.get("text", fields.get("content"))
        if not isinstance(text, str):
            raise RejectedError("malformed", f"{_shown_steps(steps)} has no text")
        return text
    if not isinstance(kind, str) or kind not in _SHOWN_PARTS:
        reason = "unsupported_media" if isinstance(kind, str) and "audio" in kind else "malformed"
        raise RejectedError(reason, f"{_shown_steps(steps)} is of type {shown(kind)}; text, image and video are known")
    named = next(
        (name for name in (kind, "image_url", "image", "video", "url", "path", "data") if name in fields), None
    )
    number = fields.get("index")
    parts.append(
        ShownPart(
            kind=_SHOWN_PARTS[kind],
            value=fields[named] if named else None,
            number=number if isinstance(number, int) and not isinstance(number, bool) else None,
            steps=(*steps, named) if named else steps,
        )
    )
    return None


def _shown_steps(steps: Sequence[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
