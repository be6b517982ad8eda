"""Records as most are written: a question and its answer, or alternating ones, about one picture or clip or none.

The result is that of `RowReader`, at a fraction of its cost; all other records are left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

from mimicit.errors import RejectedError
from mimicit.prompt import IMAGE
from mimicit.records import MediaKind
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Item, MediaRef, Note, RawTriplet, Row
from mimicit.sources.records.column_names import columns_of
from mimicit.sources.records.conversations import ANSWERS, ASKS, CONVERSATION_FIELDS, SOUND, Turn, rejected_turns
from mimicit.sources.records.row_media import MediaFinder, names_nothing
from mimicit.sources.records.text import MAX_TEXT_CHARACTERS, checked_meta, is_unicode

_MAX_ID_CHARACTERS: Final = 4000  # with the number of a turn, it is still a valid id
_NO_META: Final[dict[str, Any]] = {}
_NOT_PLAIN: Final = frozenset({*CONVERSATION_FIELDS, "history", "document", "related", "query", "meta"})
"""The fields that give a triplet another meaning, or of which not all is free."""

_Said: TypeAlias = tuple[list[str], list[str]]
"""Questions, and an answer for each."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """The roles of a record's fields: the ``talk``, or else the ``question`` and the ``answer``; the ``medium`` of this
    ``kind``; and the free fields. A field that it lacks is an empty text.
    """

    talk: str
    question: str
    answer: str
    medium: str
    kind: MediaKind | None
    free: tuple[str, ...]

    def said(self, fields: Mapping[str, Any]) -> _Said | None:
        """What the record says, without white space at its ends; None if it is not plain."""
        return _turns(fields[self.talk]) if self.talk else _turn(fields[self.question], fields[self.answer])


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRecords:
    """Makes the items of plain records of the source ``spec``.

    ``id_of`` returns the id of a record, or raises `RejectedError`; the ``id_fields`` are used for nothing else. Free
    fields of conversations that are null are kept with ``keeps_nulls``.
    """

    spec: SourceSpec
    finder: MediaFinder
    id_of: Callable[[Mapping[str, Any]], str]
    id_fields: tuple[str, ...]
    keeps_nulls: bool

    def items(self, row: Row) -> list[Item] | None:
        """The triplets of ``row``, with a note if its talk does not say where its picture is shown; None if not plain.

        If the picture is not found, a reject for each triplet.
        """
        fields = row.fields
        if not isinstance(fields, dict) or row.media:
            return None
        shape = _shape(tuple(fields), self.id_fields)
        said = shape.said(fields) if shape else None
        if shape is None or said is None:
            return None
        value = fields[shape.medium] if shape.medium else None
        steps: tuple[str | int, ...] = (shape.medium,)
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) and value[0]:
            value, steps = value[0], (shape.medium, 0)
        if value is not None and (not isinstance(value, str) or value.startswith("[")):
            return None
        questions, answers = said
        is_shown = not names_nothing(value)
        is_marked = "<" in questions[0]
        if is_marked:
            before, mark, after = questions[0].partition(IMAGE)
            questions[0] = before.strip() or after.strip()
            if not (is_shown and mark and questions[0]) or "<" in questions[0] or (before.strip() and after.strip()):
                return None
        try:
            id = self.id_of(fields)
            meta = self._meta(fields, shape) if shape.free else _NO_META
        except RejectedError:
            return None
        if len(id) > _MAX_ID_CHARACTERS:
            return None
        place = row.place
        media: tuple[MediaRef, ...] = ()
        try:
            if is_shown:
                media = (self.finder.find(value, shape.kind, row, steps),)
            else:
                self.finder.check_text_alone(fields, shape.free)
        except RejectedError as error:
            turns = [Turn(*turn) for turn in zip(*said, strict=True)]
            return list(rejected_turns(self.spec, turns, error, id=id, place=place))
        if not shape.talk:
            return [RawTriplet(id, place, media, questions[0], answers[0], meta=meta)]
        ids = [id] if len(questions) == 1 else [f"{id}_{number}" for number in range(len(questions))]
        items: list[Item] = [
            RawTriplet(turn_id, place, media, question, answer, (), place, number, True, meta)
            for number, (turn_id, question, answer) in enumerate(zip(ids, questions, answers, strict=True))
        ]
        if is_shown and not is_marked:
            items.insert(0, Note("shown_first", place))
        return items

    def _meta(self, fields: Mapping[str, Any], shape: _Shape) -> dict[str, Any]:
        keeps_nulls = self.keeps_nulls and shape.talk
        return checked_meta({name: fields[name] for name in shape.free if keeps_nulls or fields[name] is not None})


@lru_cache(maxsize=256)
def _shape(names: tuple[str, ...], id_fields: tuple[str, ...]) -> _Shape | None:
    """The shape of records with these fields; None if they are not plain."""
    columns = columns_of(names)
    if len(columns.media) > 1 or columns.by_id or not SOUND.isdisjoint(names):
        return None
    medium, kind = columns.media[0] if columns.media else ("", None)
    talk = next((name for name in CONVERSATION_FIELDS[:2] if name in names), "")
    if talk:
        question = answer = ""
        used = {*CONVERSATION_FIELDS[:2]}
    else:
        if columns.choices or columns.lettered or not _NOT_PLAIN.isdisjoint(names):
            return None
        if not (columns.instructions and columns.answers) or len(columns.answers_of_many) > 1:
            return None
        question, answer = columns.instructions[0], columns.answers[0]
        if answer.strip().lower() == "text":  # which may repeat the question
            return None
        if question == "instruction" and not {"output", "outputs"}.isdisjoint(names):  # the input is part of it
            return None
        used = {question, answer, "id", "instruction", "answer"}
    free = tuple(name for name in names if name not in {*used, *id_fields, medium})
    return _Shape(talk, question, answer, medium, kind, free)


def _turns(entries: object) -> _Said | None:
    """The alternating questions and answers of ``entries``; None if they are not plain.

    Only the first question may hold a placeholder.
    """
    if not isinstance(entries, list) or len(entries) % 2 or not entries:
        return None
    try:
        speaker, said = ("from", "value") if "from" in entries[0] else ("role", "content")
        speakers = [entry[speaker] for entry in entries]
        texts = [entry[said] for entry in entries]
        are_known = ASKS.issuperset(speakers[::2]) and ANSWERS.issuperset(speakers[1::2])
        whole = "\n".join(texts)
    except (KeyError, TypeError):
        return None
    if not are_known or sum(map(len, entries)) != 2 * len(entries) or not _is_plain(whole, len(texts[0])):
        return None
    texts = [text.strip() for text in texts]
    return (texts[::2], texts[1::2]) if all(texts) else None


def _turn(question: object, answer: object) -> _Said | None:
    """A question and its answer; None if they are not plain, or may list several."""
    if not (isinstance(question, str) and isinstance(answer, str)) or not _is_plain(question + answer, len(question)):
        return None
    question, answer = question.strip(), answer.strip()
    return ([question], [answer]) if question and answer and "[" not in (question[0], answer[0]) else None


def _is_plain(whole: str, free: int) -> bool:
    """Whether no text can be rejected, and none holds a placeholder after the first ``free`` characters."""
    return len(whole) <= MAX_TEXT_CHARACTERS and "\0" not in whole and is_unicode(whole) and "<" not in whole[free:]
