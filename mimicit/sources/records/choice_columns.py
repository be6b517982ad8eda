"""Multiple choice in the columns of a row: which of them hold the choices, and which choice they say is right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.records.choices import Choice, chosen, offered, readings
from mimicit.sources.records.column_names import Columns
from mimicit.sources.records.text import shown

_WRONG_ONES: Final = "multiple_choices"
_LETTER: Final = re.compile(r"\s*\(?[A-Z]\)?[.:]?\s*")


def choices_of(fields: Mapping[str, Any], columns: Columns) -> tuple[Choice, ...]:
    """The choices of the record; none if it lists none, or if its ``columns`` are in doubt and no answer names one.

    The ``multiple_choices`` of Visual7W are those that are wrong, and so none.
    """
    for name in columns.choices:
        if choices := offered(fields[name]):
            are_wrong = name == _WRONG_ONES and _answers_otherwise(fields, columns, choices)
            return () if are_wrong else choices
    by_letter = {letter: fields[name] for letter, name in columns.lettered}
    if not columns.doubtful:
        return offered(by_letter)
    try:
        choices = offered(by_letter)
    except RejectedError:
        return ()
    names = (first_filled(fields, columns.places), first_filled(fields, columns.chosen))
    is_named = any(_meant(fields, columns, choices, name, columns.first_number) for name in names if name)
    return choices if is_named and len(choices) > 1 else ()


def right_choice(fields: Mapping[str, Any], columns: Columns, choices: tuple[Choice, ...]) -> Choice:
    """The one of ``choices`` that the record says is right.

    `RejectedError` if none is, if two might be, or if a place and an answer name different ones.
    """
    place, column = first_filled(fields, columns.places), first_filled(fields, columns.chosen)
    name = place or column
    number = _first_number(fields, columns)
    choice = chosen(choices, fields[name] if name else None, number, is_place=bool(place))
    if place and column:
        others = _meant(fields, columns, choices, column, number)
        if others and choice.text not in [other.text for other in others]:
            detail = f"{place} {shown(fields[place])} and {column} {shown(fields[column])} are two choices"
            raise RejectedError("malformed", detail)
    return choice


def first_filled(fields: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of ``names`` whose field holds something."""
    return next(
        (name for name in names if fields[name] is not None and fields[name] != "" and fields[name] != []), None
    )


def _answers_otherwise(fields: Mapping[str, Any], columns: Columns, choices: tuple[Choice, ...]) -> bool:
    """Whether the answer is a text but no letter, and none of the ``choices``."""
    column = first_filled(fields, columns.chosen)
    if column is None or columns.places or not isinstance(fields[column], str) or _LETTER.fullmatch(fields[column]):
        return False
    return not _meant(fields, columns, choices, column, None)


def _meant(
    fields: Mapping[str, Any], columns: Columns, choices: tuple[Choice, ...], name: str, number: int | None
) -> list[Choice]:
    """The choices that the field ``name`` may mean, counted from ``number`` on; none if it holds no answer at all."""
    try:
        return readings(choices, fields[name], number, is_place=name in columns.places)
    except RejectedError:
        return []


def _first_number(fields: Mapping[str, Any], columns: Columns) -> int | None:
    """The number of the first choice by the names of the columns; None where one field lists the choices."""
    return None if any(offered(fields[name]) for name in columns.choices) else columns.first_number
