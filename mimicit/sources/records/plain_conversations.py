"""Conversations as most are written: alternating questions and answers, all of them text, about one medium or none.

The result is that of `RowReader`, at a tenth of its cost; all other records are left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.prompt import IMAGE
from mimicit.records import MediaKind
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Item, MediaRef, Note, RawTriplet, Row
from mimicit.sources.records.column_names import columns_of
from mimicit.sources.records.conversations import ANSWERS, ASKS, CONVERSATION_FIELDS, SOUND, Turn, rejected_turns
from mimicit.sources.records.row_media import MediaFinder
from mimicit.sources.records.text import MAX_TEXT_CHARACTERS, checked_meta, is_unicode

_MAX_ID_CHARACTERS: Final = 4000  # with the number of a turn, it is still a valid id
_NO_META: Final[dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class _Shape:
    """The roles of a record's fields: the ``talk``, the ``medium`` of this ``kind`` (empty: none), and free fields."""

    talk: str
    medium: str
    kind: MediaKind | None
    free: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainConversations:
    """Makes the items of plain conversations of the source ``spec``.

    ``id_of`` returns the id of a record, or raises `RejectedError`; the ``id_fields`` are used for nothing else. Free
    fields that are null are kept with ``keeps_nulls``.
    """

    spec: SourceSpec
    finder: MediaFinder
    id_of: Callable[[Mapping[str, Any]], str]
    id_fields: tuple[str, ...]
    keeps_nulls: bool

    def items(self, row: Row) -> list[Item] | None:
        """The triplets of ``row``, with a note if it does not say where its picture is shown; None if it is not plain.

        If the picture is not found, a reject for each turn.
        """
        fields = row.fields
        if not isinstance(fields, dict) or row.media:
            return None
        shape = _shape(tuple(fields), self.id_fields)
        said = _said(fields[shape.talk]) if shape else None
        if shape is None or said is None:
            return None
        value = fields[shape.medium] if shape.medium else None
        if value is not None and not isinstance(value, str):
            return None
        questions, answers = said
        is_shown = value is not None and value != ""
        is_marked = "<" in questions[0]
        if is_marked:
            before, mark, after = questions[0].partition(IMAGE)
            questions[0] = before.strip() or after.strip()
            if not (is_shown and mark and questions[0]) or "<" in questions[0] or (before.strip() and after.strip()):
                return None
        try:
            if not is_shown:
                self.finder.check_text_alone(fields, shape.free)
            id = self.id_of(fields)
            meta = self._meta(fields, shape.free) if shape.free else _NO_META
        except RejectedError:
            return None
        if len(id) > _MAX_ID_CHARACTERS:
            return None
        media: tuple[MediaRef, ...] = ()
        if is_shown:
            try:
                media = (self.finder.find(value, shape.kind, row, (shape.medium,)),)
            except RejectedError as error:
                return list(
                    rejected_turns(
                        self.spec, [Turn(*turn) for turn in zip(*said, strict=True)], error, id=id, place=row.place
                    )
                )
        place = row.place
        ids = [id] if len(questions) == 1 else [f"{id}_{number}" for number in range(len(questions))]
        items: list[Item] = [
            RawTriplet(turn_id, place, media, question, answer, (), place, number, True, meta)
            for number, (turn_id, question, answer) in enumerate(zip(ids, questions, answers, strict=True))
        ]
        if is_shown and not is_marked:
            items.insert(0, Note("shown_first", place))
        return items

    def _meta(self, fields: Mapping[str, Any], free: Iterable[str]) -> dict[str, Any]:
        return checked_meta({name: fields[name] for name in free if self.keeps_nulls or fields[name] is not None})


@lru_cache(maxsize=256)
def _shape(names: tuple[str, ...], id_fields: tuple[str, ...]) -> _Shape | None:
    """The shape of records with these fields; None if they are not plain."""
    talk = next((name for name in CONVERSATION_FIELDS[:2] if name in names), None)
    columns = columns_of(names)
    media = columns.media
    if talk is None or len(media) > 1 or columns.by_id or not SOUND.isdisjoint(names):
        return None
    medium, kind = media[0] if media else ("", None)
    used = {*id_fields, *CONVERSATION_FIELDS[:2], medium}
    return _Shape(talk, medium, kind, tuple(name for name in names if name not in used))


def _said(entries: object) -> tuple[list[str], list[str]] | None:
    """The alternating questions and answers of ``entries``, without white space at their ends; None if not plain.

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
    if not are_known or sum(map(len, entries)) != 2 * len(entries):
        return None
    if "\0" in whole or len(whole) > MAX_TEXT_CHARACTERS or not is_unicode(whole) or "<" in whole[len(texts[0]) :]:
        return None
    texts = [text.strip() for text in texts]
    return (texts[::2], texts[1::2]) if all(texts) else None
