"""The triplets in the samples of shards, each once, however many samples hold it.

A triplet is repeated in every sample that it is context of. Whether it is ever a query, and what it shows, is known
only from all of them. So each triplet of each sample becomes an entry (see `mimicit.sources.format.Join`), and the
record of a triplet is made where its own sample stands, from all its entries; if it is never a query, where it is
first shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final

import orjson

from mimicit.errors import CorruptShardError, RejectedError
from mimicit.records import MediaKind, Sample, Triplet
from mimicit.sources.files.root import Root
from mimicit.sources.format import Lookup, SourceSpec
from mimicit.sources.items import Entry, InArrow, InParquet, InTar, Item, MediaRef, RawTriplet
from mimicit.sources.records.text import checked_answer, checked_id, checked_instruction, checked_meta
from mimicit.sources.shown_media import About, agree, media_of_triplets

_QUERY: Final = "q"
_CONTEXT: Final = "c"


@dataclass(frozen=True, slots=True)
class _Shown:
    """One medium: what it is, and one of the places where it lies, which does not count for equality."""

    kind: MediaKind
    sha256: tuple[str, ...]
    timestamps_s: tuple[float, ...] | None
    duration_s: float | None
    origin: str = field(compare=False)
    parts: tuple[InTar | InParquet | InArrow, ...] = field(compare=False)


def entries_of(sample: Sample, media: Sequence[MediaRef], place: str, name: str) -> Iterator[Entry]:
    """An entry for each triplet of ``sample``, whose media lie at ``media``; that of its query is the last.

    The triplets must pass `check_shown`. ``name`` is what a reject calls the sample.
    """
    shown = tuple(_shown(ref, stored.sha256) for ref, stored in zip(media, sample.media, strict=True))
    query: dict[str, Any] = {"name": name, "meta": dict(sample.meta)}
    if sample.query.relation == "document":
        query["parts"] = [[len(triplet.media), triplet.answer] for triplet in sample.triplets]
        yield _entry(_QUERY + sample.id, sample.query, About(shown, True), place, query)
        return
    query["related"] = [triplet.id for triplet in reversed(sample.context)]
    for triplet, about in zip(sample.triplets, media_of_triplets(sample), strict=True):
        of_medium = About(tuple(shown[index] for index in about.media), about.certain)
        is_query = triplet is sample.query
        key = (_QUERY if is_query else _CONTEXT) + triplet.id
        yield _entry(key, triplet, of_medium, place, query if is_query else {})


def _entry(key: str, triplet: Triplet, about: About[_Shown], place: str, query: dict[str, Any]) -> Entry:
    value = {"instruction": triplet.instruction, "answer": triplet.answer, "about": about, **query}
    return Entry(key, orjson.dumps(value).decode(), place)


def _shown(ref: MediaRef, sha256: tuple[str, ...]) -> _Shown:
    parts = tuple(part for part in ref.parts if isinstance(part, InTar | InParquet | InArrow))
    return _Shown(ref.kind, sha256, ref.timestamps_s, ref.duration_s, ref.origin, parts)


def records(spec: SourceSpec, root: Root, entries: Lookup) -> Iterator[Item]:
    """The records whose place is among the own ``entries``, sample by sample; those of one sample by their ids."""
    homes: list[tuple[str, Entry]] = []
    for place, entry in entries.own():
        id = entry.key[1:]
        query = entries.first(_QUERY + id)
        if entry.key[0] == _CONTEXT:
            if query is None and entries.first(entry.key) == place:
                homes.append((id, entry))
            continue
        if query == place:
            homes.append((id, entry))
        else:
            detail = f"{id!r} is the query of an earlier sample, which keeps it"
            name = orjson.loads(entry.value)["name"]
            yield spec.reject("duplicate_id", place=entry.place, id=name, detail=detail)
        for id, home in sorted(homes):
            try:
                yield _record(id, home, entries)
            except RejectedError as error:
                yield spec.reject(error.reason, place=home.place, id=id, detail=error.detail)
        homes.clear()


def _record(id: str, home: Entry, entries: Lookup) -> RawTriplet:
    """The record of a triplet, whose texts and fields are checked like those of any other file."""
    value = orjson.loads(home.value)
    places = sorted([*entries.all(_QUERY + id), *entries.all(_CONTEXT + id)])
    about = reduce(_agreed, (_about(orjson.loads(entries.value(place))["about"]) for place in places))
    parts = tuple((count, checked_answer(text)) for count, text in value.get("parts", ()))
    return RawTriplet(
        id=checked_id(id),
        place=home.place,
        media=tuple(map(_ref, about.media)),
        instruction=checked_instruction(value["instruction"]),
        answer="" if parts else checked_answer(value["answer"]),
        related=tuple(checked_id(id, "related") for id in value.get("related", ())),
        is_query=home.key[0] == _QUERY,
        meta=checked_meta(value.get("meta", {})),
        parts=parts,
    )


def _agreed(before: About[_Shown], now: About[_Shown]) -> About[_Shown]:
    try:
        return agree(before, now)
    except CorruptShardError:
        return before  # shards of several builds: the first wins


def _about(value: Mapping[str, Any]) -> About[_Shown]:
    return About(tuple(map(_shown_from_json, value["media"])), value["certain"])


def _shown_from_json(value: Mapping[str, Any]) -> _Shown:
    return _Shown(
        kind=value["kind"],
        sha256=tuple(value["sha256"]),
        timestamps_s=None if value["timestamps_s"] is None else tuple(value["timestamps_s"]),
        duration_s=value["duration_s"],
        origin=value["origin"],
        parts=tuple(map(_part_from_json, value["parts"])),
    )


def _part_from_json(value: dict[str, Any]) -> InTar | InParquet | InArrow:
    if "offset" in value:
        return InTar(**value)
    item = value.pop("item")
    return (InArrow if "batch" in value else InParquet)(**value, item=tuple(item) if isinstance(item, list) else item)


def _ref(shown: _Shown) -> MediaRef:
    return MediaRef(
        kind=shown.kind,
        parts=shown.parts,
        origin=shown.origin,
        timestamps_s=shown.timestamps_s,
        duration_s=shown.duration_s,
    )


def check_shown(sample: Sample, name: str) -> None:
    """Raise `RejectedError` if the triplets of ``sample``, called ``name``, do not show each medium once, in order."""
    if [index for triplet in sample.triplets for index in triplet.media] != list(range(len(sample.media))):
        raise RejectedError("schema", f"{name}: its triplets do not show each of its media once, in order")
