"""Make items of the rows of a file, for formats with their own names in which a row is a triplet or a conversation.

A row that is wrong costs only itself: the `RejectedError` about it becomes its reject, with its place and, if that is
known by then, its id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mimicit.errors import RejectedError
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Item, MediaRef, RawTriplet, Reject, Row
from mimicit.sources.records.conversations import Turn, rejected_turns, turn_items
from mimicit.sources.records.text import own_or_derived_id


def triplets_of_rows(
    spec: SourceSpec,
    rows: Iterable[Row],
    triplet: Callable[[dict[str, Any], str, str], RawTriplet],
    id_of: Callable[[Mapping[str, Any]], str] = own_or_derived_id,
) -> Iterator[RawTriplet | Reject]:
    """``triplet(row, id, place)`` of each of the ``rows``, or its reject; both functions raise `RejectedError`."""
    for place, row, *_ in rows:
        id = ""
        try:
            if isinstance(row, RejectedError):
                raise row
            id = id_of(row)
            yield triplet(row, id, place)
        except RejectedError as error:
            yield spec.reject(error.reason, place=place, id=id, detail=error.detail)


def turns_of_rows(
    spec: SourceSpec,
    rows: Iterable[Row],
    turns_of: Callable[[dict[str, Any]], Sequence[Turn]],
    about: Callable[[dict[str, Any]], tuple[tuple[MediaRef, ...], dict[str, Any]]],
) -> Iterator[Item]:
    """A triplet or a reject for each turn of each of the ``rows``.

    ``about(row)`` returns the media and the free fields that all turns share; a `RejectedError` of it rejects every
    turn.
    """
    for place, row, *_ in rows:
        id = ""
        try:
            if isinstance(row, RejectedError):
                raise row
            id = own_or_derived_id(row)
            turns = turns_of(row)
        except RejectedError as error:
            yield spec.reject(error.reason, place=place, id=id, detail=error.detail)
            continue
        try:
            media, meta = about(row)
        except RejectedError as error:
            yield from rejected_turns(spec, turns, error, id=id, place=place)
        else:
            yield from turn_items(spec, turns, media=media, meta=meta, id=id, place=place, marked=False)
