"""Make triplets of a record, whatever file it comes from: JSON, CSV, parquet, Arrow, a tar, or a sidecar.

The names of its fields tell what a record is (see `column_names`), in this order:

- a conversation (see `conversations`): a triplet for each answer;
- a question with choices (see `choices`): the instruction lists them, and the answer is the text of the right one;
- a question with an answer; of a list of answers, the most frequent one;
- captions: a triplet for each, with an instruction of the fixed pool.

All other fields go to ``meta``. The formats differ only in how they find records and media.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import orjson

from mimicit.errors import RejectedError
from mimicit.options import option
from mimicit.placeholders import question_about, with_words
from mimicit.records import MediaKind
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Item, MediaRef, RawTriplet, Row
from mimicit.sources.records.captions import instruction_or_caption
from mimicit.sources.records.choices import Choice, choices_of, first_filled, listed_texts, right_choice, with_choices
from mimicit.sources.records.column_names import CAPTIONS, Columns, columns_of
from mimicit.sources.records.conversations import (
    CONVERSATION_FIELDS,
    SOUND,
    Conversation,
    ShownPart,
    Turn,
    conversation_of,
    rejected_turns,
    turn_items,
)
from mimicit.sources.records.document_rows import document_from_row, is_document_row
from mimicit.sources.records.plain_records import PlainRecords
from mimicit.sources.records.row_media import MediaFinder
from mimicit.sources.records.text import (
    checked_answer,
    checked_id,
    checked_ids,
    checked_meta,
    derived_id,
    free_fields,
    shown,
)

_TEXT_OF_ENTRY: Final = ("answer", "raw", "caption", "text", "value", "sentence")
_HISTORY: Final = "history"
_YES_OR_NO: Final = re.compile(r"\s*(?:is|are|was|were|does|do|did|has|have|can)\b", re.IGNORECASE)
_OBJECT_MARKS: Final = ("<bbox>", "<ref-object>")  # of ms-swift, which puts the entries there in training
_ROUNDS: Final = ("questions", "answers")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceholderOptions:
    """What formats with conversations let a user set."""

    require_placeholders: int = option(
        0, "1 rejects a conversation with media in which no placeholder shows them.", least=0, most=1
    )


def describes_itself(fields: Mapping[str, Any]) -> bool:
    """Whether the JSON that comes with a medium is a record, and not just notes about the medium."""
    columns = columns_of(fields)
    asks = bool(columns.instructions and (columns.answers or columns.chosen or columns.places))
    return "answer" in fields or asks or any(key in fields for key in CONVERSATION_FIELDS[:2])


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReader:
    """Reads the records of one file of the source ``spec``.

    ``finder`` finds the media that they name. With ``own_media``, all media of a record are kept with it (`Row.media`),
    and a field such as ``image`` is a free field. The id of a record is the first of its ``id_fields``, else a hash of
    the record. ``require_placeholders`` is that of `PlaceholderOptions`. With ``keeps_nulls``, free fields that are
    null are kept; not so for tables, which have all their columns in every row, where null means absent.
    """

    spec: SourceSpec
    finder: MediaFinder | None
    own_media: bool = False
    id_fields: tuple[str, ...] = ("id",)
    require_placeholders: bool = False
    keeps_nulls: bool = False

    def items(self, rows: Iterable[Row]) -> Iterator[Item]:
        """The triplets of ``rows``, or their rejects; a row that is wrong costs only itself."""
        plain = self._plain_records()
        for row in rows:
            items = plain.items(row) if plain else None
            yield from self.items_of(row) if items is None else items

    def items_of(self, row: Row, *, id: str | None = None) -> Iterator[Item]:
        """The triplets of ``row``, or its rejects; ``id`` is that of a record that has none of its own."""
        own_id = id or ""
        try:
            if isinstance(row.fields, RejectedError):
                raise row.fields
            own_id = self._id(row.fields, id)
            found = conversation_of(row.fields) or _with_history(row.fields) or _in_two_lists(row.fields)
            if found is not None:
                yield from self._conversation(row, row.fields, *found, id=own_id)
            else:
                yield from self._triplets(row, row.fields, id=own_id)
        except RejectedError as error:
            yield self.spec.reject(error.reason, place=row.place, id=own_id, detail=error.detail)

    def _plain_records(self) -> PlainRecords | None:
        if self.finder is None or self.own_media or self.require_placeholders:
            return None
        return PlainRecords(
            spec=self.spec,
            finder=self.finder,
            id_of=partial(self._id, otherwise=None),
            id_fields=self.id_fields,
            keeps_nulls=self.keeps_nulls,
        )

    def _id(self, fields: Mapping[str, Any], otherwise: str | None) -> str:
        given = next((fields[name] for name in self.id_fields if fields.get(name) is not None), otherwise)
        return derived_id(fields) if given is None else checked_id(given)

    def _conversation(
        self, row: Row, fields: dict[str, Any], key: str, said: Conversation, *, id: str
    ) -> Iterator[Item]:
        columns = columns_of(fields)
        used = {*self.id_fields, key, *CONVERSATION_FIELDS[:2], *said.used}
        try:
            if any(fields.get(name) for name in SOUND):
                raise RejectedError("unsupported_media", "the record is about sound, which no sample can hold")
            if isinstance(fields.get("objects"), dict) and any(mark in str(said.turns) for mark in _OBJECT_MARKS):
                raise RejectedError(
                    "malformed", "<bbox> and <ref-object> stand for entries of objects; write these out"
                )
            media = row.media
            if self.finder is not None and not self.own_media:
                media += tuple(self.finder.of_row(row, fields, columns))
                used |= {column for column, _ in columns.media}
            media = self._shown_by_parts(said.parts, row, media)
            if self.finder is not None and not self.own_media and not media:
                self.finder.check_text_alone(fields, (name for name in fields if name not in used))
            free = {name: value for name, value in fields.items() if name not in used}
            free = {name: value for name, value in free.items() if self.keeps_nulls or value is not None}
            free |= {name: texts[0] if len(texts) == 1 else texts for name, texts in said.beside.items()}
            system = {"system": said.system} if said.system is not None and "system" not in fields else {}
            meta = checked_meta(free | system)
        except RejectedError as error:
            yield from rejected_turns(self.spec, said.turns, error, id=id, place=row.place)
            return
        yield from turn_items(
            self.spec,
            said.turns,
            media=media,
            meta=meta,
            id=id,
            place=row.place,
            marked=key not in ("texts", _ROUNDS[0]),
            strict=self.require_placeholders,
        )

    def _shown_by_parts(
        self, parts: Iterable[ShownPart], row: Row, media: tuple[MediaRef, ...]
    ) -> tuple[MediaRef, ...]:
        """The media in the order in which the ``parts`` of a conversation show them; without any, ``media``."""
        shown_media: list[MediaRef] = []
        used: set[int] = set()
        parts = list(parts)
        is_unnamed = all(part.value is None and part.number is None for part in parts)
        if (len(parts) > len(media) and is_unnamed) or (media and all(part.is_tag for part in parts)):
            return media  # their placeholders tell whether every turn shows the same
        for part in parts:
            if part.value is not None and self.finder is not None:
                shown_media.append(self.finder.find(part.value, part.kind, row, part.steps))
                continue
            number = len(used) if part.number is None else part.number
            if not 0 <= number < len(media):
                raise RejectedError("placeholder_mismatch", f"picture {number} is shown, and there are {len(media)}")
            used.add(number)
            shown_media.append(media[number])
        if shown_media and len(used) < len(media):
            raise RejectedError("placeholder_mismatch", f"{len(used)} of {len(media)} pictures or clips are shown")
        return tuple(shown_media) or media

    def _triplets(self, row: Row, fields: dict[str, Any], *, id: str) -> Iterator[Item]:
        if self.finder is not None and not self.own_media and is_document_row(fields):
            yield document_from_row(self.finder.root, fields, id=id, place=row.place, beside=self.finder.beside)
            return
        columns = columns_of(fields)
        said = _said(fields, columns)
        is_one = len(said.answers) == 1
        for number, answer in enumerate(said.answers):
            answer_id = id if is_one else f"{id}_{number}"
            try:
                own_id = id if is_one else checked_id(answer_id)
                yield self._triplet(row, fields, columns, said, answer, id=own_id)
            except RejectedError as error:
                yield self.spec.reject(error.reason, place=row.place, id=answer_id, detail=error.detail)

    def _triplet(
        self, row: Row, fields: dict[str, Any], columns: Columns, said: _Said, answer: object, *, id: str
    ) -> RawTriplet:
        media, used = row.media, {*self.id_fields, *said.used}
        if self.finder is not None and not self.own_media:
            media += tuple(self.finder.of_row(row, fields, columns))
            used |= {column for column, _ in columns.media}
            if not media:
                self.finder.check_text_alone(fields, (name for name in fields if name not in used))
        kinds = [medium.kind for medium in media]
        instruction = question_about(said.question, kinds)
        if said.choices and isinstance(instruction, str):
            worded = [replace(choice, text=str(with_words(choice.text, kinds))) for choice in said.choices]
            instruction = with_choices(instruction, worded)
        meta = {name: _worded(value, kinds) for name, value in said.meta.items()}
        return RawTriplet(
            id=id,
            place=row.place,
            media=media,
            instruction=instruction_or_caption(instruction, id, media),
            answer=checked_answer(with_words(answer, kinds)),
            related=checked_ids(fields.get("related"), "related"),
            is_query=fields.get("query") is not False,
            meta=checked_meta(free_fields(fields, used) | meta) if meta else free_fields(fields, used),
        )


@dataclass(frozen=True, slots=True)
class _Said:
    """What a record says: a ``question`` (None: captions) and its answers.

    The question offers ``choices``. The columns ``used`` do not go to ``meta``; the fields of this ``meta`` do.
    """

    question: object
    answers: list[object]
    used: set[str]
    meta: dict[str, Any]
    choices: tuple[Choice, ...] = ()


def _said(fields: Mapping[str, Any], columns: Columns) -> _Said:
    asking = first_filled(fields, [name for name in columns.instructions if not isinstance(fields[name], bool)])
    question = _question(fields, asking)
    names = columns.answers if asking else columns.captions
    choices = choices_of(fields, columns) if asking else ()
    if asking and _are_pictures([choice.text for choice in choices] or _split_choices(fields, columns)):  # as in IconQA
        raise RejectedError("malformed", "the choices are the names of pictures: no text says which is which")
    if choices:
        return _multiple_choice(fields, columns, question, choices)
    if not names:
        detail = "the record has none of the fields answer, response, caption, text and the like"
        if asking and asking.strip().lower() == "text":
            detail = f"{asking!r} is taken for the question, since there is a question_id, and no field answers it"
        raise RejectedError("malformed", detail)
    column = first_filled(fields, names) or names[0]
    value, used = fields[column], {column, *([asking] if asking else []), *_inputs(fields, asking)}
    people = {
        name: list(map(_text_of, fields[name])) for name in columns.answers_of_many if isinstance(fields[name], list)
    }
    _check_answer(fields, asking, question, column)
    is_text = isinstance(value, str)
    if not asking or column in columns.of_several:
        value = listed_texts(value)
    if not isinstance(value, list):
        return _Said(question, [_text_of(value)], used, people)
    texts = [_text_of(entry) for entry in value]
    if not asking and (is_text or column not in columns.answers_of_many):  # captions
        return _Said(question, texts or [None], used, {})
    said = [text for text in texts if text is not None]
    most_frequent = Counter(map(checked_answer, said)).most_common(1)[0][0] if said else None
    return _Said(question, [most_frequent], used, people | {column: texts})


def _check_answer(fields: Mapping[str, Any], asking: str | None, question: object, column: str) -> None:
    """`RejectedError` if ``column`` holds no answer, or no caption if no column is ``asking``."""
    value, name = fields[column], column.strip().lower()
    if not asking and _is_false(value, fields):
        raise RejectedError("malformed", "label 0 says that the caption is false, as in VSR")
    is_label = name == "label"
    if not asking and (is_label or name not in CAPTIONS) and _holds_number(value):
        means = "the number of a class; write its name" if is_label else "a number, and nothing is asked"
        raise RejectedError("malformed", f"{column} {shown(value)} is {means}")
    if not asking and is_label and "hypothesis" in fields:  # as in SNLI-VE
        raise RejectedError("malformed", f"label {shown(value)} says whether the hypothesis is true, not what is shown")
    is_judged = is_label and (not asking or "sentence" in fields)  # the query of NLVR2 is what found the pictures
    if is_judged and str(value).strip().lower() in ("true", "false"):
        detail = f"label {shown(value)} says whether something is true: write what as a question, and an answer"
        raise RejectedError("malformed", detail)
    if asking and type(value) is int and value in (0, 1) and _asks_yes_or_no(question):  # as in FigureQA
        raise RejectedError("malformed", f"{column} {value} may be yes or no, or a number: write it as a text")
    if not asking and _holds_question(value):  # as in RLHF-V
        raise RejectedError("malformed", f"{column} is the JSON of a question: give its fields columns of their own")
    if isinstance(value, str) and name == "text" and _begins_with(value, question):  # as UReader writes it
        raise RejectedError("malformed", f"{column} repeats {asking} before what answers it: leave that out")


def _split_choices(fields: Mapping[str, Any], columns: Columns) -> list[str]:
    """The choices of the record if one text lists them between commas."""
    return [
        text.strip() for name in columns.choices if isinstance(fields[name], str) for text in fields[name].split(",")
    ]


def _are_pictures(choices: list[str]) -> bool:
    return bool(choices) and all(named_kind(choice) == "image" for choice in choices)


def _asks_yes_or_no(question: object) -> bool:
    return isinstance(question, str) and _YES_OR_NO.match(question) is not None and " or " not in question


def _with_history(fields: Mapping[str, Any]) -> tuple[str, Conversation] | None:
    """The conversation of a record whose earlier rounds stand in ``history``, as pairs; None if it has none."""
    rounds = fields.get(_HISTORY)
    if not (isinstance(rounds, list) and rounds):
        return None
    columns = columns_of(fields)
    asking, answering = first_filled(fields, columns.instructions), first_filled(fields, columns.answers)
    if not (asking and answering):
        return None
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in rounds):
        raise RejectedError("malformed", f"{_HISTORY} must be a list of pairs of a question and an answer")
    turns = [Turn(question, answer) for question, answer in rounds]
    last = Turn(_question(fields, asking), fields[answering])
    used = (asking, answering, *_inputs(fields, asking))
    return _HISTORY, Conversation(turns=[*turns, last], used=used)


def _in_two_lists(fields: Mapping[str, Any]) -> tuple[str, Conversation] | None:
    """The conversation of a record with a list of ``questions`` and one of their ``answers``; None if it has none."""
    questions, answers = (listed_texts(fields.get(name)) for name in _ROUNDS)
    if not isinstance(questions, list) or first_filled(fields, columns_of(fields).instructions) != _ROUNDS[0]:
        return None
    if not (isinstance(answers, list) and len(answers) == len(questions) > 0):
        raise RejectedError("malformed", "questions is a list, and answers is none of as many")
    turns = [Turn(question, _text_of(answer)) for question, answer in zip(questions, answers, strict=True)]
    return _ROUNDS[0], Conversation(turns=turns, used=_ROUNDS)


def _question(fields: Mapping[str, Any], asking: str | None) -> object:
    """What the field ``asking`` says, and on the next line what Alpaca's ``input`` says."""
    question = fields[asking] if asking else None
    for name in _inputs(fields, asking):
        question = f"{question}\n{fields[name]}"
    return question


def _inputs(fields: Mapping[str, Any], asking: str | None) -> tuple[str, ...]:
    """The field that continues the question, if the record is one of Alpaca's or M3IT's; else empty."""
    if asking != "instruction" or not isinstance(fields[asking], str):
        return ()
    name = "input" if "output" in fields else "inputs" if "outputs" in fields else ""
    given = fields.get(name)
    return (name,) if isinstance(given, str) and given.strip() else ()


def _multiple_choice(
    fields: Mapping[str, Any], columns: Columns, question: object, choices: tuple[Choice, ...]
) -> _Said:
    choice = right_choice(fields, columns, choices)
    used = {*columns.instructions[:1], *columns.choices, *(name for _, name in columns.lettered)}
    saying = (first_filled(fields, columns.places), first_filled(fields, columns.chosen))
    used |= {name for name in saying if name}
    meta = {"choices": [choice.text for choice in choices], "letter": choice.letter}
    return _Said(question, [choice.text], used, meta, choices)


def _text_of(entry: object) -> object:
    """The text of one of several answers or captions, which may be wrapped in an object."""
    if isinstance(entry, dict):
        name = next((name for name in _TEXT_OF_ENTRY if entry.get(name) is not None), None)
        return entry[name] if name else entry
    return entry


def _is_false(caption: object, fields: Mapping[str, Any]) -> bool:
    """Whether a record of VSR says of its caption, which words a ``relation``, that it is false."""
    relation = fields.get("relation")
    words = isinstance(relation, str) and isinstance(caption, str) and relation.strip().lower() in caption.lower()
    return words and str(fields.get("label")).lower() in ("0", "false")


def _holds_number(value: object) -> bool:
    entries = value if isinstance(value, list) else [value]
    return any(isinstance(entry, int | float) and not isinstance(entry, bool) and entry == entry for entry in entries)


def _holds_question(value: object) -> bool:
    if not (isinstance(value, str) and value.lstrip().startswith("{")):
        return False
    try:
        inner = orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(inner, dict):
        return False
    columns = columns_of(inner)
    return bool(columns.instructions) and (bool(columns.answers) or "chosen" in inner)


def _begins_with(text: str, question: object) -> bool:
    """Whether ``text`` is the ``question`` and more; a word that goes on, as "cat" in "cats", is another word."""
    asked = question.strip() if isinstance(question, str) else ""
    rest = text.removeprefix(asked)
    return bool(asked and rest.strip() and rest != text) and not (asked[-1].isalnum() and rest[0].isalnum())


def _worded(value: Any, kinds: list[MediaKind]) -> Any:
    return [with_words(text, kinds) for text in value] if isinstance(value, list) else value
