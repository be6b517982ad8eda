"""Multiple choice: the choices that a record offers, and which of them is its answer.

Benchmarks write the choices as a list (ScienceQA, A-OKVQA, AI2D), as the text of one (MMMU: ``"['a', 'b']"``), as an
object with their letters, or in columns (MMBench: ``A`` to ``D``); and the answer as the number of a choice from 0, as
a letter, or as the choice's own text. If these readings name different choices, the record is rejected: no answer is
guessed. `choices_of` finds them in the columns of a row, and `right_choice` the one that these say is right.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Final

import orjson

from mimicit.errors import RejectedError
from mimicit.sources.records.column_names import Columns
from mimicit.sources.records.text import checked_answer, shown

_NO_CHOICE: Final = "nan"  # how pandas writes a choice that is absent, after those that are there
_MAX_LIST_CHARACTERS: Final = 100_000
_LETTERED: Final = re.compile(r"\(?([A-Za-z])[).:]\s*(.+)", re.DOTALL)
_ONLY_LETTER: Final = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_NUMBER: Final = re.compile(r"[-+]?[0-9]+([.,][0-9]+)*")

_WRONG_ONES: Final = "multiple_choices"
_LETTER: Final = re.compile(r"\s*\(?[A-Z]\)?[.:]?\s*")


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice: its ``letter`` (``A`` to ``Z``), its text, its place, and the number that the record labels it with.

    Places count from 0, and count choices that are null, too.
    """

    letter: str
    text: str
    place: int = 0
    number: int | None = None


def offered(value: object) -> tuple[Choice, ...]:
    """The choices that the field ``value`` lists, without those that are null; empty if it lists none.

    A list, also of objects with a ``choice`` each (STAR), the text of a list, lines that begin with letters,
    ``{"text": [...], "label": [...]}`` or ``{"A": ...}``.
    `RejectedError` ``malformed`` if the entries are no texts, or more than there are letters.
    """
    if isinstance(value, str):
        value = _parsed_list(value)
    match value:
        case {"text": list(texts), "label": list(labels)} if len(texts) == len(labels):
            pairs = list(zip(labels, texts, strict=True))
        case dict():
            pairs = list(value.items())
        case list():
            pairs = [("", text["choice"] if isinstance(text, dict) and "choice" in text else text) for text in value]
        case _:
            return ()
    if len(pairs) > len(ascii_uppercase):
        raise RejectedError("malformed", f"there are {len(pairs)} choices, more than letters")
    has_letters = all(isinstance(label, str) and re.fullmatch("[A-Za-z]", label) for label, _ in pairs)
    letters = [str(label).upper() for label, _ in pairs] if has_letters else list(ascii_uppercase)
    has_numbers = all(re.fullmatch("[0-9]{1,2}", str(label)) for label, _ in pairs)
    texts = [None if text is None or text == "" else checked_answer(text) for _, text in pairs]
    return tuple(
        Choice(letters[place], text, place, int(pairs[place][0]) if has_numbers else None)
        for place, text in enumerate(_without_letters(texts, letters))
        if text is not None
    )


def listed_texts(value: object) -> object:
    """The list of texts that is written in the text ``value``, as in a CSV cell; any other value as it is."""
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return value
    found = _parsed_list(value)
    is_list = isinstance(found, list) and bool(found) and all(isinstance(entry, str) for entry in found)
    return found if is_list else value


def chosen(
    choices: Sequence[Choice], answer: object, first_number: int | None = None, *, is_place: bool = False
) -> Choice:
    """The choice that ``answer`` means; `RejectedError` ``malformed`` if it means none, or might mean two.

    What an answer may mean, `readings` says.
    """
    found = readings(choices, answer, first_number, is_place=is_place)
    if not found:
        raise RejectedError("malformed", f"the answer {shown(answer)} is none of {len(choices)} choices")
    if len({_plain(reading.text) for reading in found}) > 1:
        named = " or ".join(f"{reading.letter} ({reading.text!a:.40})" for reading in found)
        raise RejectedError("malformed", f"the answer {shown(answer)} may be {named}; write its letter")
    return found[0]


def readings(
    choices: Sequence[Choice], answer: object, first_number: int | None = None, *, is_place: bool = False
) -> list[Choice]:
    """Every choice that ``answer`` may mean; `RejectedError` if it is neither text nor a number.

    A number is the label of a choice if all labels are numbers. Otherwise it is the text of a choice, or its place from
    0, or, if columns number the choices from ``first_number`` on, that number; written as text, it is no place where
    all choices are other numbers. With ``is_place`` it is the place. Any other text is a choice's text, its letter, or
    both.
    """
    text = checked_answer(answer)
    same = [choice for choice in choices if _plain(choice.text) == _plain(text)][:1]
    is_text = isinstance(answer, str)
    if not re.fullmatch("[0-9]{1,2}", text):
        return same + (_by_letter(choices, text) if is_text else [])
    labelled = [choice for choice in choices if choice.number == int(text)]
    places = {int(text)} if is_place else {int(text), int(text) - (first_number or 0)}
    placed = [choice for choice in choices if choice.place in places]
    if is_place:
        return placed + labelled
    if all(choice.number is not None for choice in choices):
        return labelled
    is_own = is_text and all(_NUMBER.fullmatch(choice.text) for choice in choices)
    return same + placed if same or not is_own else []  # AI2D writes places as texts, MathVista the numbers themselves


def with_choices(question: str, choices: Sequence[Choice]) -> str:
    """``question`` with a line for each choice, "A. ..."; unchanged if it lists them itself."""
    marks = (rf"\(?{choice.letter}[.):]\)?\s*{re.escape(choice.text)}" for choice in choices)
    if all(re.search(mark, question) for mark in marks):
        return question
    return "\n".join((question, *(f"{choice.letter}. {choice.text}" for choice in choices))).lstrip("\n")


def _by_letter(choices: Sequence[Choice], text: str) -> list[Choice]:
    match = _ONLY_LETTER.fullmatch(text) or _LETTERED.fullmatch(text)
    if match is None:
        return []
    found = [choice for choice in choices if choice.letter == match[1].upper()]
    return [choice for choice in found if match.re is _ONLY_LETTER or _plain(choice.text) == _plain(match[2])]


def _without_letters(texts: Sequence[str | None], letters: Sequence[str]) -> list[str | None]:
    """``texts`` without the letters before them, if each begins with its own ("A. a cat", "B. a dog")."""
    matches = [_LETTERED.fullmatch(text) if text is not None else None for text in texts]
    pairs = [(m, letter) for m, text, letter in zip(matches, texts, letters, strict=False) if text is not None]
    if len(pairs) < 2 or not all(match and match[1].upper() == letter for match, letter in pairs):
        return list(texts)
    return [match[2].strip() if match else None for match in matches]


def _parsed_list(text: str) -> object:
    """The list that is written in ``text`` as JSON, as Python or in lettered lines; None for any other text."""
    text = text.strip()
    if len(text) > _MAX_LIST_CHARACTERS:
        return None
    if text[:1] in ("[", "{", "("):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return _python_list(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    matches = [_LETTERED.fullmatch(line) for line in lines]
    if len(lines) > 1 and all(
        match and match[1].upper() == a for match, a in zip(matches, ascii_uppercase, strict=False)
    ):
        return list(lines)
    return None


def _python_list(text: str) -> object:
    try:
        value = ast.literal_eval(text)
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        count = sum(token.type == tokenize.STRING for token in tokens)
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        return None
    entries = list(value) if isinstance(value, list | tuple) else value
    if isinstance(entries, list) and count > sum(isinstance(entry, str) for entry in entries):
        raise RejectedError("malformed", f"{text!a:.60} lists texts without commas between them, as numpy prints them")
    return entries


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").casefold()


def choices_of(fields: Mapping[str, Any], columns: Columns) -> tuple[Choice, ...]:
    """The choices of the record; none if it lists none, or if its ``columns`` are in doubt and no answer names one.

    The ``multiple_choices`` of Visual7W are those that are wrong, and so none.
    """
    for name in columns.choices:
        if choices := offered(fields[name]):
            are_wrong = name == _WRONG_ONES and _answers_otherwise(fields, columns, choices)
            return () if are_wrong else choices
    by_letter = {letter: fields[name] for letter, name in columns.lettered}
    while by_letter and next(reversed(by_letter.values())) in (None, "", _NO_CHOICE):  # 0 is a choice
        by_letter.popitem()
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
