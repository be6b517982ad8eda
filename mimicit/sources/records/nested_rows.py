"""Records that hold a list of questions with their answers, all about what the record shows.

Visual Genome writes ``{"id": 1, "qas": [{"qa_id": 9, "image_id": 1, "question": ..., "answer": ...}, ...]}``, and
Visual7W a record of each picture with its ``qa_pairs``. Every question becomes a row of its own, with the other fields
of the record. Its id is that of the record, and its own or its number: ``1_0``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.items import Locate, Locator, Row
from mimicit.sources.records.column_names import columns_of
from mimicit.sources.sniff import Fields

_KNOWN: Final = ("qas", "qa_pairs")
_DIALOGUES: Final = re.compile(
    r"(?:conv|conversation|dialog|dialogue|message|chat|exchange|turn|round|utterance)s?|history", re.IGNORECASE
)


def nested_list(fields: Fields) -> str | None:
    """The field of a record of this shape that lists questions with answers; None if there is none.

    A record that asks something itself, or has a caption, has none. The rounds of a dialogue are no such list: each
    needs those before.
    """
    if _own_texts(fields_of(fields)):
        return None
    return next(
        (name for name in fields_of(fields) if fields.get(f"{name}[]") == "object" and _asks(fields, name)), None
    )


def merged(fields: Fields, name: str) -> Fields:
    """The shape of the rows that a record of this shape becomes by its list ``name``."""
    outer = {place: kind for place, kind in fields.items() if place != name and not place.startswith(f"{name}[")}
    return {**outer, **(inside(fields, f"{name}[].") or dict.fromkeys(("question", "answer"), "text"))}


def spread(rows: Iterable[Row], name: str) -> Iterator[Row]:
    """A row for each entry of the list ``name`` of each of the ``rows``.

    A row without it, or with a text of its own, stays as it is.
    """
    for row in rows:
        fields = row.fields
        if (
            isinstance(fields, RejectedError)
            or not isinstance(fields.get(name), list)
            or any(fields[own] for own in _own_texts(fields))
        ):
            yield row
            continue
        entries = fields[name]
        if not entries:
            yield Row(row.place, RejectedError("malformed", f"{name} is empty; nothing is asked"))
        shared = {key: value for key, value in fields.items() if key != name}
        for number, entry in enumerate(entries):
            place = f"{row.place}.{name}[{number}]"
            if isinstance(entry, dict):
                own = {key: value for key, value in entry.items() if value is not None or key not in shared}
                locate = row.locate and partial(_located, row.locate, own, (name, number))
                yield Row(place, {**shared, **own, **_id(shared, own, number)}, locate, row.media)
            else:
                yield Row(place, RejectedError("malformed", f"{name} must list objects"))


def fields_of(shape: Fields) -> list[str]:
    """The names of the fields of a record, without those that are nested inside them."""
    return [name for name in shape if name and "." not in name and "[" not in name]


def inside(shape: Fields, start: str) -> Fields:
    """The part of ``shape`` whose fields begin with ``start``, without that."""
    return {place.removeprefix(start): kind for place, kind in shape.items() if place.startswith(start)}


def _own_texts(names: Collection[str]) -> tuple[str, ...]:
    """The fields of a record with these ``names`` that ask something, or say what its media show."""
    columns = columns_of(names)
    return columns.instructions or (columns.captions if columns.media else ())


def _asks(fields: Fields, name: str) -> bool:
    if _DIALOGUES.fullmatch(name):
        return False
    inner = fields_of(inside(fields, f"{name}[]."))
    if not inner:  # deeper than the head of the file reaches
        return name in _KNOWN
    columns = columns_of(inner)
    answers = columns.answers_of_many or ((columns.choices or columns.lettered) and (columns.chosen or columns.places))
    return bool(columns.instructions and answers)  # the label of a box answers nothing


def _id(shared: dict[str, Any], entry: dict[str, Any], number: int) -> dict[str, str | None]:
    """The field ``id`` of a row: if the record has none, the entry's own, unless it only counts; else a hash serves."""
    own = entry.get("id")
    if shared.get("id") is None:
        return {"id": None} if str(own) in (str(number), str(number + 1)) else {}
    return {"id": f"{shared['id']}_{number if own is None else own}"}


def _located(locate: Locate, entry: dict[str, Any], step: tuple[str, int], steps: Sequence[str | int]) -> Locator:
    return locate((*step, *steps) if steps[0] in entry else steps)
