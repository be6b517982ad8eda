"""Import: stream every source into the catalog, then filter its texts and settle what its records refer to.

A source is imported whole or not at all: a build that was killed in the middle begins that source again. Nothing is
held in memory but one batch of rows.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import orjson

from mimicit.build.catalog import Catalog, locator_to_json, ref_to_json
from mimicit.build.config import SourceRules
from mimicit.build.filters import Fault, FilterConfig, text_fault
from mimicit.build.progress import Progress
from mimicit.errors import SchemaError, SourceError
from mimicit.prompt import SPECIAL_TOKENS
from mimicit.schema import canonical_json, null_for_nan
from mimicit.sources import SOURCES
from mimicit.sources.base import MAX_MEDIA, MAX_RELATED, Note, Picture, RawTriplet, Reject, SourceSpec, TrainEntry
from mimicit.sources.root import Root

__all__ = ["import_sources"]

_BATCH: Final = 5_000
_MAX_ID_CHARACTERS: Final = 4096  # as in schemas/sample.json


def import_sources(
    catalog: Catalog,
    root: Root,
    specs: Sequence[SourceSpec],
    rules: Mapping[str, SourceRules],
    progress: Progress,
    *,
    keep_going: bool = False,
) -> None:
    """Read all ``specs`` into the catalog and settle their references; finished sources are not read again.

    A record whose texts do not pass the filters in ``rules`` (by name of the source) is rejected, and its media are
    not even looked for.

    `SourceError` where a source is unreadable as a whole, or, with ``keep_going``, one reject for it.
    """
    for number, spec in enumerate(specs):
        stage = f"import {spec.name}"
        if not catalog.is_done(stage):
            try:
                _begin(catalog, number, spec)
                records = _read_source(catalog, number, spec, root, progress)
                root.check_inputs()
            except SourceError as error:
                if not keep_going:
                    raise
                _begin(catalog, number, spec)
                place = spec.files[0] if spec.files else spec.name
                reject = spec.reject("unreadable_source", place=place, detail=str(error), scope="source")
                catalog.add_reject(number, reject)
                root.found.clear()
                records = 0
            with catalog.transaction():
                catalog.db.execute("UPDATE source SET records = ? WHERE id = ?", (records, number))
                found = ((number, way, count) for way, count in root.found.items())
                catalog.db.executemany("INSERT INTO found VALUES (?, ?, ?)", found)
                catalog.mark_done(stage)
    for number, spec in enumerate(specs):
        stage = f"settle {spec.name}"
        if not catalog.is_done(stage):
            with catalog.transaction():
                _apply_train_list(catalog, number, spec)
                _settle_media(catalog, number, spec, rules[spec.name].filters, progress)
                _report_dangling(catalog, number, spec)
                catalog.mark_done(stage)


def _begin(catalog: Catalog, number: int, spec: SourceSpec) -> None:
    """Remove what an interrupted import of this source left behind, and enter the source."""
    with catalog.transaction():
        for table in ("picture", "train", "triplet", "reject", "found", "note"):
            catalog.db.execute(f"DELETE FROM {table} WHERE source = ?", (number,))
        row = (number, spec.name, spec.format, spec.why)
        catalog.db.execute("INSERT OR REPLACE INTO source(id, name, format, why) VALUES (?, ?, ?, ?)", row)


def _read_source(catalog: Catalog, number: int, spec: SourceSpec, root: Root, progress: Progress) -> int:
    """Store the items of one source; returns the number of its records, kept or not."""
    records = 0
    root.found.clear()
    items = iter(SOURCES[spec.format].read(spec, root))
    is_through = False
    while not is_through:
        with catalog.transaction():
            is_through = True
            for item in itertools.islice(items, _BATCH):  # stored one by one: any of them may be large
                is_through = False
                match item:
                    case RawTriplet():
                        records += 1
                        _add_triplet(catalog, number, spec, item)
                    case Picture():
                        _add_picture(catalog, number, spec, item)
                    case TrainEntry():
                        _add_train_entry(catalog, number, spec, item)
                    case Note():
                        catalog.add_note(number, item.kind, item.place)
                    case Reject():
                        records += item.scope == "record"
                        catalog.add_reject(number, item)
        progress.update(f"import {spec.name}", records, None)
    return records


def _add_triplet(catalog: Catalog, source: int, spec: SourceSpec, triplet: RawTriplet) -> None:
    fault = _size_fault(triplet)
    if fault is not None:
        reject = spec.reject(fault.reason, place=triplet.place, id=triplet.id[:80], detail=fault.detail)
        catalog.add_reject(source, reject)
        return
    try:
        meta = _meta_json(catalog, source, triplet)
        texts = (triplet.instruction, triplet.answer, *(text for _, text in triplet.parts))
        if any("<" in text and any(token in text for token in SPECIAL_TOKENS) for text in texts):
            catalog.add_note(source, "tokens_as_words", triplet.place)
        if _insert(catalog, source, triplet, triplet.id, meta):
            return
        if SOURCES[spec.format].ids_repeat and not _says_the_same(catalog, source, triplet, triplet.id):
            for number in itertools.count(2):
                id = f"{triplet.id}~{number}"
                if _insert(catalog, source, triplet, id, meta):
                    return
                if _says_the_same(catalog, source, triplet, id):
                    break
        detail = "this id was used before in the source; the first record keeps it"
        catalog.add_reject(source, spec.reject("duplicate_id", place=triplet.place, id=triplet.id, detail=detail))
    except SchemaError as error:
        catalog.add_reject(source, spec.reject("malformed", place=triplet.place, id=triplet.id, detail=str(error)))


def _meta_json(catalog: Catalog, source: int, triplet: RawTriplet) -> bytes:
    """The free fields of ``triplet`` as JSON, with null in place of NaN, which is noted. `SchemaError` for the rest."""
    try:
        return canonical_json(dict(triplet.meta))
    except SchemaError:
        meta = canonical_json(null_for_nan(dict(triplet.meta)))
        catalog.add_note(source, "nan_as_null", triplet.place)
        return meta


def _size_fault(triplet: RawTriplet) -> Fault | None:
    """What of ``triplet`` is more than a record may have, in whatever format it was written."""
    if not 0 < len(triplet.id) <= _MAX_ID_CHARACTERS:
        detail = f"ids have 1 to {_MAX_ID_CHARACTERS} characters; this one has {len(triplet.id)}"
        return Fault("malformed", detail)
    if len(triplet.media) > MAX_MEDIA:
        return Fault("too_many_pictures", f"{len(triplet.media):,} media; the limit of a record is {MAX_MEDIA:,}")
    if len(triplet.related) > MAX_RELATED:
        return Fault("too_long", f"{len(triplet.related):,} related ids; the limit is {MAX_RELATED:,}")
    return None


def _insert(catalog: Catalog, source: int, triplet: RawTriplet, id: str, meta: bytes) -> bool:
    """Store ``triplet`` under ``id``, with its free fields as JSON; false where the id is taken."""
    try:
        catalog.db.execute(
            "INSERT INTO triplet(source, id, place, instruction, answer, conversation, turn, is_query, related, meta,"
            " refs, parts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                source,
                id,
                triplet.place,
                triplet.instruction,
                triplet.answer,
                triplet.conversation,
                triplet.turn,
                triplet.is_query,
                orjson.dumps(triplet.related).decode(),
                meta,
                _refs_json(triplet),
                canonical_json(triplet.parts).decode(),
            ),
        )
    except sqlite3.IntegrityError:
        return False
    return True


def _says_the_same(catalog: Catalog, source: int, triplet: RawTriplet, id: str) -> bool:
    row = catalog.db.execute(
        "SELECT instruction, answer, refs FROM triplet WHERE source = ? AND id = ?", (source, id)
    ).fetchone()
    return bool(row == (triplet.instruction, triplet.answer, _refs_json(triplet)))


def _refs_json(triplet: RawTriplet) -> str:
    return canonical_json([ref_to_json(ref) for ref in triplet.media]).decode()


def _add_picture(catalog: Catalog, source: int, spec: SourceSpec, picture: Picture) -> None:
    locator = orjson.dumps(locator_to_json(picture.locator)).decode()
    try:
        catalog.db.execute("INSERT INTO picture VALUES (?, ?, ?)", (source, picture.id, locator))
    except sqlite3.IntegrityError:
        detail = "this picture id was used before in the source; the first picture keeps it"
        reject = spec.reject("duplicate_id", place=picture.place, id=picture.id, detail=detail, scope="media")
        catalog.add_reject(source, reject)


def _add_train_entry(catalog: Catalog, source: int, spec: SourceSpec, entry: TrainEntry) -> None:
    related = orjson.dumps(entry.related).decode()
    try:
        catalog.db.execute("INSERT INTO train VALUES (?, ?, ?)", (source, entry.id, related))
    except sqlite3.IntegrityError:
        detail = "this id stands in the training list before; the first entry counts"
        reject = spec.reject("duplicate_id", place=entry.place, id=entry.id, detail=detail, scope="reference")
        catalog.add_reject(source, reject)


def _apply_train_list(catalog: Catalog, source: int, spec: SourceSpec) -> None:
    """Where the publisher lists the queries, only those are queries, and with the context listed there."""
    db = catalog.db
    if db.execute("SELECT 1 FROM train WHERE source = ? LIMIT 1", (source,)).fetchone() is None:
        return
    for (id,) in db.execute(
        "SELECT id FROM train WHERE source = ?1 AND id NOT IN (SELECT id FROM triplet WHERE source = ?1) ORDER BY id",
        (source,),
    ):
        detail = "the training list names this id, but no instruction has it"
        place = f"{spec.files[0]}#{id}"
        catalog.add_reject(
            source, spec.reject("dangling_reference", place=place, id=id, detail=detail, scope="reference")
        )
    db.execute("UPDATE triplet SET is_query = 0 WHERE source = ?", (source,))
    db.execute(
        "UPDATE triplet SET is_query = 1, related = train.related FROM train"
        " WHERE triplet.source = ?1 AND train.source = ?1 AND train.id = triplet.id",
        (source,),
    )


def _settle_media(catalog: Catalog, source: int, spec: SourceSpec, filters: FilterConfig, progress: Progress) -> None:
    """Give every distinct media reference a medium number, with ids of pictures replaced by places."""
    rows = catalog.db.execute(
        "SELECT seq, id, place, refs, instruction, answer, parts FROM triplet WHERE source = ? ORDER BY seq", (source,)
    )
    for count, (seq, id, place, refs, instruction, answer, parts) in enumerate(rows):
        texts = (instruction, answer, *(text for _, text in orjson.loads(parts)))
        fault = text_fault(texts, filters)
        if fault is not None:
            reject = spec.reject(fault.reason, place=place, id=id, detail=fault.detail)
            catalog.add_reject(source, replace(reject, stage="filter"))
            continue
        media: list[int] = []
        for ref in orjson.loads(refs):
            missing = _name_to_place(catalog, source, ref)
            if missing is not None:
                detail = f"picture {missing!r} is in none of the picture files of this source"
                catalog.add_reject(source, spec.reject("dangling_reference", place=place, id=id, detail=detail))
                break
            media.append(_medium_number(catalog, ref))
        else:
            catalog.db.execute("UPDATE triplet SET media = ? WHERE seq = ?", (orjson.dumps(media).decode(), seq))
        if count % _BATCH == 0:
            progress.update(f"resolve {spec.name}", count, None)


def _name_to_place(catalog: Catalog, source: int, ref: dict[str, list[list[object]]]) -> str | None:
    """Replace named pictures in ``ref`` by where they lie; the first name that nothing matches, or ``None``."""
    for place, part in enumerate(ref["parts"]):
        if part[0] != "named":
            continue
        names: list[str] = part[1]  # type: ignore[assignment]
        for name in names:
            row = catalog.db.execute(
                "SELECT locator FROM picture WHERE source = ? AND id = ?", (source, name)
            ).fetchone()
            if row is not None:
                ref["parts"][place] = orjson.loads(row[0])
                break
        else:
            return names[0]
    return None


def _medium_number(catalog: Catalog, ref: dict[str, object]) -> int:
    text = canonical_json(ref).decode()
    row = catalog.db.execute("SELECT id FROM medium WHERE ref = ?", (text,)).fetchone()
    if row is not None:
        return int(row[0])
    cursor = catalog.db.execute("INSERT INTO medium(ref, kind) VALUES (?, ?)", (text, ref["kind"]))
    return int(cursor.lastrowid or 0)


def _report_dangling(catalog: Catalog, source: int, spec: SourceSpec) -> None:
    """A related id that no record has drops that one reference, and is counted."""
    rows = catalog.db.execute(
        "SELECT id, place, related FROM triplet WHERE source = ? AND related <> '[]' ORDER BY seq", (source,)
    )
    for id, place, related in rows:
        for index, name in enumerate(orjson.loads(related)):
            known = catalog.db.execute("SELECT 1 FROM triplet WHERE source = ? AND id = ?", (source, name)).fetchone()
            if known is None:
                detail = f"related[{index}] names {name!r}, which no record of this source has; it is left out"
                reject = spec.reject("dangling_reference", place=place, id=id, detail=detail, scope="reference")
                catalog.add_reject(source, reject)
