"""Write the tables of one part of a source from its items, with all checks that need no other record.

Records are collected and written many at a time, so that the work is done on whole columns.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

from mimicit.errors import SchemaError
from mimicit.pipeline.parts import TableWriter
from mimicit.pipeline.rejects import Phase, RejectWriter
from mimicit.pipeline.stages.entries import digest_of
from mimicit.pipeline.stages.filters import Fault, FilterConfig, text_fault
from mimicit.pipeline.tables import ENTRIES, NAMES, PICTURES, RECORDS, REFERENCES, TRAINING
from mimicit.prompt import SPECIAL_TOKENS
from mimicit.schema import canonical_json, null_for_nan
from mimicit.sources import SOURCES
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import (
    MAX_MEDIA,
    MAX_RELATED,
    Entry,
    Item,
    MediaRef,
    Named,
    Note,
    Picture,
    RawTriplet,
    Reject,
    TrainEntry,
    locator_to_json,
    place_in_table,
    ref_text,
    ref_to_json,
)

_MAX_ID_CHARACTERS: Final = 4096  # as in schemas/sample.json
_KNOWN_REFERENCES: Final = 1 << 16  # some 50 MB; beyond, a reference may have several rows
_WAITING_RECORDS: Final = 1 << 9  # few enough to stay in the cache of a processor
_WAITING_CHARACTERS: Final = 8 << 20
_HELD_OUT: Final = frozenset({"dev", "test", "testdev", "testmini", "val", "valid", "validation"})


class PartWriter:
    """Takes the items of part number ``part``, of source number ``source``, in their order.

    ``table`` maps the name of a table to its path; all appear when the block ends without an error. A record whose
    texts do not pass the ``filters`` is marked.
    """

    def __init__(
        self, table: Callable[[str], Path], part: int, source: int, spec: SourceSpec, filters: FilterConfig
    ) -> None:
        self._part = part
        self._source = source
        self._spec = spec
        self._filters = filters
        self._ids_repeat = SOURCES[spec.format].ids_repeat
        self._records = TableWriter(table("records"), RECORDS)
        self._references = TableWriter(table("references"), REFERENCES, skip_empty=True)
        self._names = TableWriter(table("names"), NAMES, skip_empty=True)
        self._pictures = TableWriter(table("pictures"), PICTURES, skip_empty=True)
        self._training = TableWriter(table("training"), TRAINING, skip_empty=True)
        self._entries = TableWriter(table("entries"), ENTRIES, skip_empty=True)
        self._rejects = RejectWriter(table("rejects"))
        self._known: dict[MediaRef, tuple[int, bytes]] = {}
        self._media: tuple[MediaRef, ...] = ()  # of the last record,
        self._shown: tuple[list[int], bytes] = ([], b"")  # and their rows and JSON
        self._waiting: list[tuple[RawTriplet, tuple[int, bytes, bytes, list[int], bytes]]] = []
        self._characters = 0
        self._waiting_entries: list[tuple[int, str, str, str]] = []
        self._entry_characters = 0
        self._items = 0
        self._held = ExitStack()
        self.records = 0
        self.notes: Counter[str] = Counter()
        self.first_notes: dict[str, str] = {}

    def __enter__(self) -> Self:
        tables = (self._records, self._references, self._names, self._pictures, self._training, self._entries)
        for table in (*tables, self._rejects):
            self._held.enter_context(table)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._held.__exit__(kind, error, trace)
            return
        with self._held:
            self._write_records()
            self._write_entries()

    def add(self, item: Item | Entry) -> None:
        """Store ``item``, whatever it is."""
        self._items += 1
        match item:
            case RawTriplet():
                self.records += 1
                self._add_record(item)
            case Picture():
                locator = orjson.dumps(locator_to_json(item.locator)).decode()
                self._pictures.add((self._items, item.id, locator, item.place))
            case TrainEntry():
                self._training.add((self._items, item.id, item.related, item.place))
            case Entry():
                self._add_entry(item)
            case Note():
                self._note(item.kind, item.place)
            case Reject():
                self.records += item.scope == "record"
                self._reject(item)

    def _add_entry(self, entry: Entry) -> None:
        self._waiting_entries.append((self._items, *entry))
        self._entry_characters += len(entry.value)
        if len(self._waiting_entries) == _WAITING_RECORDS or self._entry_characters > _WAITING_CHARACTERS:
            self._write_entries()

    def _write_entries(self) -> None:
        if self._waiting_entries:
            items, keys, values, places = zip(*self._waiting_entries, strict=True)
            self._entries.add_columns([items, list(map(digest_of, keys)), keys, values, places])
            self._waiting_entries, self._entry_characters = [], 0

    def _note(self, kind: str, place: str) -> None:
        self.notes[kind] += 1
        self.first_notes.setdefault(kind, place)

    def _reject(self, reject: Reject) -> None:
        self._rejects.reject(self._source, Phase.IMPORT, self._part, self._items, reject)

    def _add_record(self, triplet: RawTriplet) -> None:
        id, place, media, instruction, answer, related, _, _, _, free, parts = triplet
        fault = _size_fault(id, media, related)
        if fault is not None:
            self._reject(self._spec.reject(fault.reason, place=place, id=id[:80], detail=fault.detail))
            return
        try:
            meta = self._meta_json(free, place) if free else b"{}"
            if "split" in free and str(free["split"]).lower() in _HELD_OUT:
                self._note("held_out", place)
            if "<" in instruction or "<" in answer or parts:
                self._note_tokens(triplet)
            if media != self._media:
                self._media, self._shown = media, self._add_references(media)
            interleaved = canonical_json(parts) if parts else b""
        except SchemaError as error:
            self._reject(self._spec.reject("malformed", place=place, id=id, detail=str(error)))
            return
        self._waiting.append((triplet, (self._items, meta, interleaved, *self._shown)))
        self._characters += len(instruction) + len(answer) + len(meta) + len(interleaved) + sum(map(len, related))
        if len(self._waiting) == _WAITING_RECORDS or self._characters > _WAITING_CHARACTERS:
            self._write_records()

    def _write_records(self) -> None:
        if not self._waiting:
            return
        triplets, others = zip(*self._waiting, strict=True)
        ids, places, _, instructions, answers, related, conversations, turns, are_queries, _, parts = zip(
            *triplets, strict=True
        )
        items, meta, interleaved, references, shown = zip(*others, strict=True)
        says: list[bytes | None] = [None] * len(ids)
        if self._ids_repeat:
            says = list(map(_says, instructions, answers, shown))
        faults: list[Fault | None] = [None] * len(ids)
        if self._filters.examines_texts or not all(map(str.isprintable, chain(instructions, answers))) or any(parts):
            faults = [text_fault(_texts(triplet), self._filters) for triplet in triplets]
        self._records.add_columns(
            [
                *(items, ids, places, instructions, answers, meta, [name or "" for name in conversations], turns),
                *(are_queries, related, references, interleaved, says),
                *([fault and fault.reason for fault in faults], [fault and fault.detail for fault in faults]),
            ]
        )
        self._waiting, self._characters = [], 0

    def _note_tokens(self, triplet: RawTriplet) -> None:
        if any(token in text for text in _texts(triplet) for token in SPECIAL_TOKENS):
            self._note("tokens_as_words", triplet.place)

    def _meta_json(self, free: Mapping[str, Any], place: str) -> bytes:
        """The free fields as JSON, NaN as null (with a note); `SchemaError` for anything else that JSON cannot hold."""
        try:
            return canonical_json(dict(free))
        except SchemaError:
            meta = canonical_json(null_for_nan(dict(free)))
            self._note("nan_as_null", place)
            return meta

    def _add_references(self, media: Sequence[MediaRef]) -> tuple[list[int], bytes]:
        """The rows of REFERENCES of ``media``, and their JSON, each after a NUL."""
        known = [self._known.get(ref) or self._add_reference(ref) for ref in media]
        return [row for row, _ in known], b"".join(b"\0" + text for _, text in known)

    def _add_reference(self, ref: MediaRef) -> tuple[int, bytes]:
        value = ref_to_json(ref)
        text = ref_text(value)
        row = self._references.rows
        is_named = False
        for place, part in enumerate(ref.parts):
            if isinstance(part, Named):
                is_named = True
                for rank, id in enumerate(part.ids):
                    self._names.add((row, place, rank, id))
        self._references.add((text.decode(), place_in_table(value["parts"][0]), ref.kind == "video", is_named))
        if len(self._known) >= _KNOWN_REFERENCES:
            self._known.clear()
        self._known[ref] = (row, text)
        return row, text


def _texts(triplet: RawTriplet) -> tuple[str, ...]:
    return (triplet.instruction, triplet.answer, *(text for _, text in triplet.parts))


def _size_fault(id: str, media: Sequence[MediaRef], related: Sequence[str]) -> Fault | None:
    """Why a record exceeds a limit that holds for every format, or None."""
    if not 0 < len(id) <= _MAX_ID_CHARACTERS:
        detail = f"ids have 1 to {_MAX_ID_CHARACTERS} characters; this one has {len(id)}"
        return Fault("malformed", detail)
    if len(media) > MAX_MEDIA:
        return Fault("too_many_pictures", f"{len(media):,} media; the limit of a record is {MAX_MEDIA:,}")
    if len(related) > MAX_RELATED:
        return Fault("too_long", f"{len(related):,} related ids; the limit is {MAX_RELATED:,}")
    return None


def _says(instruction: str, answer: str, shown: bytes) -> bytes:
    """A digest that is equal for records that say and show the same."""
    return hashlib.blake2b(f"{instruction}\0{answer}".encode() + shown, digest_size=16).digest()  # none holds a NUL
