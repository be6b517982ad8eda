"""What is known of each picture, set of pictures or clip under ``--src``: the records that a model is asked about.

The importers of ``mimicit build`` give single triplets; here those that show the same media are one record: five
captions of a picture are asked about once. Pictures and clips that no triplet shows are records without words, and so
are texts without pictures. The triplets wait in a SQLite file, so memory does not grow with their number; the order is
that of the first triplet of each record, then the loose files by their paths.
"""

from __future__ import annotations

import posixpath
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from mimicit.annotating.facts import (
    MOST_FACTS,
    SUBTITLES,
    Box,
    Moment,
    boxes_of,
    holds_boxes,
    moments_beside,
    moments_of,
    read_boxes,
)
from mimicit.errors import SourceError
from mimicit.schema import canonical_json, null_for_nan
from mimicit.sources import SOURCES, detect
from mimicit.sources.detect import is_data, why_unused
from mimicit.sources.files.media_names import folder_of, named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import (
    InArrow,
    InFile,
    InParquet,
    Locator,
    MediaRef,
    Named,
    Picture,
    RawTriplet,
    Reject,
    ref_from_json,
    ref_to_json,
)
from mimicit.sources.records.captions import caption_instruction

_LOOSE: Final = "media"  # what the source of loose files is called
_BATCH: Final = 5_000
_MOST_SAID: Final = 20  # unused files that are named
_MOST_TRIPLETS: Final = 200  # of one record that the model is shown
_TABLES: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE triplet(seq INTEGER PRIMARY KEY, source INTEGER, key TEXT, body BLOB);
CREATE TABLE picture(source INTEGER, id TEXT, locator TEXT, PRIMARY KEY(source, id)) WITHOUT ROWID;
CREATE TABLE shown(path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE box(path TEXT, label TEXT, box TEXT);
CREATE TABLE id(id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE words(number INTEGER PRIMARY KEY, words TEXT);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing to ask about; ``id`` is unique in the run, ``place`` says where its first triplet stands.

    ``captions`` say what the media show, ``pairs`` are questions with answers that exist already, in their order.
    ``meta`` are the free fields of its first triplet.
    """

    id: str
    source: str
    place: str
    media: tuple[MediaRef, ...]
    captions: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    boxes: tuple[Box, ...] = ()
    moments: tuple[Moment, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An input that became no record: it was rejected, or it names pictures that are not there."""

    reason: str
    id: str
    place: str
    detail: str


class RecordTable:
    """The records under ``root``, read once into the new file ``table``.

    ``triplets`` counts the records of the input, and ``dropped`` lists those that cannot be asked about.
    """

    def __init__(self, root: Root, table: Path, *, format: str | None = None) -> None:
        self._root = root
        self._format = format
        self.triplets = 0
        self.dropped: list[Dropped] = []
        self.notes: list[str] = []
        table.unlink(missing_ok=True)
        self._db = sqlite3.connect(table, isolation_level=None)
        self._db.executescript(_TABLES)
        self._sources: tuple[SourceSpec, ...] = ()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def fill(self, on_progress: Callable[[str, int], None]) -> int:
        """Read everything; return the number of records. `SourceError` if a source is unreadable, or all is empty."""
        detection = detect(self._root, format=self._format)
        self._sources = detection.sources
        links = self._root.links_advice(detection.skipped)
        self.notes += [links] if links else []
        for number, spec in enumerate(self._sources):
            self.notes.append(f"{spec.name}: {spec.format} ({spec.why})")
            self._read(number, spec, on_progress)
        unused = []
        for path in detection.unused:
            if holds_boxes(self._root, path):
                self._read_boxes(path, on_progress)
            elif is_data(path) and not path.lower().endswith(SUBTITLES):
                unused.append(path)
        self.notes += [f"{path}: not used: {why_unused(self._root, path)}" for path in unused[:_MOST_SAID]]
        if len(unused) > _MOST_SAID:
            self.notes.append(f"{len(unused) - _MOST_SAID:,} more files are not used")
        self._db.execute("CREATE INDEX by_key ON triplet(source, key)")
        self._db.execute("CREATE INDEX by_path ON box(path)")
        self._add_loose_files()
        (count,) = self._db.execute("SELECT count(*) FROM (SELECT 1 FROM triplet GROUP BY source, key)").fetchone()
        if not count and not self.dropped:
            hint = f"; {links}" if links else ""
            raise SourceError(f"{self._root.folder}: nothing to ask about; put pictures, clips or captions there{hint}")
        return int(count)

    def records(self) -> Iterator[Record | Dropped]:
        """All records in their order, each time the same; a `Dropped` in place of one whose pictures are missing."""
        self._db.execute("DELETE FROM id")
        rows = self._db.execute(
            "SELECT triplet.source, triplet.key, triplet.body FROM triplet JOIN"
            " (SELECT source, key, min(seq) AS first FROM triplet GROUP BY source, key) AS head"
            " ON head.source = triplet.source AND head.key = triplet.key ORDER BY head.first, triplet.seq"
        )
        now: tuple[int, str] | None = None
        bodies: list[dict[str, Any]] = []
        for source, key, body in rows:
            if now is not None and (source, key) != now:
                yield self._record(now[0], bodies)
                bodies = []
            now = (source, key)
            bodies.append(orjson.loads(body))
        if now is not None:
            yield self._record(now[0], bodies)

    def keep_words(self, words: Iterable[str]) -> None:
        """Keep a text for each record, in order."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO words VALUES (?, ?)", enumerate(words))
        self._db.execute("COMMIT")

    def words(self, number: int | None = None) -> Iterator[str]:
        """The texts that `keep_words` has kept, in order, or that of one record."""
        where, values = ("", ()) if number is None else (" WHERE number = ?", (number,))
        for (words,) in self._db.execute(f"SELECT words FROM words{where} ORDER BY number", values):
            yield words

    def _read(self, number: int, spec: SourceSpec, on_progress: Callable[[str, int], None]) -> None:
        db, known = self._db, 0
        db.execute("BEGIN")
        for item in SOURCES[spec.format].read(spec, self._root):
            match item:
                case RawTriplet(parts=()):
                    self._add(number, item)
                case RawTriplet():
                    self.triplets += 1
                    self._note_shown(item.media)
                    detail = "a web document with pictures between its texts; annotate asks about pictures and clips"
                    self.dropped.append(Dropped("document", item.id, item.place, detail))
                case Picture():
                    place = orjson.dumps(ref_to_json(MediaRef(kind="image", parts=(item.locator,), origin=item.id)))
                    db.execute("INSERT OR IGNORE INTO picture VALUES (?, ?, ?)", (number, item.id, place))
                    self._note_shown((MediaRef(kind="image", parts=(item.locator,), origin=item.id),))
                case Reject(scope="record", reason="missing_sidecar"):
                    pass  # a picture without words: it is asked about all the same
                case Reject(scope="record"):
                    self.triplets += 1
                    self.dropped.append(Dropped(item.reason, item.id, item.locator, item.detail))
            known += 1
            if known % _BATCH == 0:
                db.execute("COMMIT")
                db.execute("BEGIN")
                on_progress(f"import {spec.name}", known)
        db.execute("COMMIT")
        on_progress(f"import {spec.name}", known)

    def _read_boxes(self, path: str, on_progress: Callable[[str, int], None]) -> None:
        left_out: Counter[str] = Counter()
        known = 0
        self._db.execute("BEGIN")
        try:
            for known, (picture, box) in enumerate(read_boxes(self._root, path, left_out), 1):
                row = (picture, box.label, orjson.dumps(box.box))
                self._db.execute("INSERT INTO box VALUES (?, ?, ?)", row)
                if known % _BATCH == 0:
                    on_progress(f"import {path}", known)
        except SourceError as error:
            raise SourceError(f"{error}; it would give the boxes of pictures: correct it, or move it away") from None
        self._db.execute("COMMIT")
        on_progress(f"import {path}", known)
        lost = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items()))
        self.notes.append(f"{path}: {known:,} boxes" + (f"; left out: {lost}" if lost else ""))

    def _boxes_on(self, media: Sequence[MediaRef]) -> Iterator[Box]:
        """The boxes that other files give for the picture of a record with only one."""
        if len(media) == 1 and isinstance(part := media[0].parts[0], InFile):
            query = "SELECT label, box FROM box WHERE path = ? ORDER BY rowid LIMIT ?"
            for label, box in self._db.execute(query, (part.path, MOST_FACTS)):
                yield Box(label, tuple(orjson.loads(box)))

    def _add(self, source: int, triplet: RawTriplet) -> None:
        self.triplets += 1
        refs = [ref_to_json(ref) for ref in triplet.media]
        key = canonical_json(refs).decode() if refs else f"text {triplet.id}"
        is_caption = bool(refs) and triplet.instruction == caption_instruction(triplet.id, triplet.media)
        body = {
            "id": triplet.id,
            "place": triplet.place,
            "media": refs,
            "question": None if is_caption else triplet.instruction,
            "answer": triplet.answer,
            "meta": null_for_nan(dict(triplet.meta)),
        }
        self._db.execute("INSERT INTO triplet(source, key, body) VALUES (?, ?, ?)", (source, key, orjson.dumps(body)))
        self._note_shown(triplet.media)

    def _note_shown(self, media: Iterable[MediaRef]) -> None:
        paths = ((path,) for ref in media for part in ref.parts for path in _files_shown(part, ref.origin))
        self._db.executemany("INSERT OR IGNORE INTO shown VALUES (?)", paths)

    def _add_loose_files(self) -> None:
        """Enter the pictures and clips that no triplet shows and no source keeps its records in."""
        self._db.execute("BEGIN")
        number = len(self._sources)
        for path in sorted(path for path, _ in self._root.walk() if named_kind(path)):
            if self._db.execute("SELECT 1 FROM shown WHERE path = ?", (path,)).fetchone() is None:
                ref = MediaRef(kind=named_kind(path) or "image", parts=(InFile(path),), origin=path)
                body = {"id": path, "place": path, "media": [ref_to_json(ref)], "question": None, "answer": None}
                row = (number, path, orjson.dumps({**body, "meta": {}}))
                self._db.execute("INSERT INTO triplet(source, key, body) VALUES (?, ?, ?)", row)
        self._db.execute("COMMIT")

    def _record(self, source: int, bodies: list[dict[str, Any]]) -> Record | Dropped:
        head = bodies[0]
        name = self._sources[source].name if source < len(self._sources) else _LOOSE
        id = self._unique(f"{name}/{head['id']}")
        media = []
        for value in head["media"]:
            ref = self._resolved(source, ref_from_json(value))
            if isinstance(ref, str):
                detail = f"picture {ref!r} is in none of the picture files of this source"
                return Dropped("dangling_reference", id, head["place"], detail)
            media.append(ref)
        known = bodies[:_MOST_TRIPLETS]
        captions = (body["answer"] for body in known if body["question"] is None and body["answer"])
        return Record(
            id=id,
            source=name,
            place=head["place"],
            media=tuple(media),
            captions=tuple(dict.fromkeys(captions)),
            pairs=tuple((body["question"], body["answer"]) for body in known if body["question"] is not None),
            boxes=tuple(
                dict.fromkeys([*(box for body in known for box in boxes_of(body["meta"])), *self._boxes_on(media)])
            ),
            moments=tuple(
                dict.fromkeys(
                    moment
                    for body in known
                    for moment in moments_of(body["meta"], body["answer"] if body["question"] is None else None)
                )
            )
            or moments_beside(self._root, media),
            meta=head["meta"],
        )

    def _unique(self, id: str) -> str:
        """``id``, or ``id~NUMBER`` if an earlier record has it."""
        written, number = id, 1
        while self._db.execute("INSERT OR IGNORE INTO id VALUES (?)", (written,)).rowcount == 0:
            number += 1
            written = f"{id}~{number}"
        return written

    def _resolved(self, source: int, ref: MediaRef) -> MediaRef | str:
        """``ref`` with ids of pictures replaced by where they lie, or else the first id that no picture has."""
        parts: list[Locator] = []
        for part in ref.parts:
            if isinstance(part, Named):
                rows = (
                    self._db.execute("SELECT locator FROM picture WHERE source = ? AND id = ?", (source, id)).fetchone()
                    for id in part.ids
                )
                found = next(filter(None, rows), None)
                if found is None:
                    return str(part.ids[0])
                parts += ref_from_json(orjson.loads(found[0])).parts
            else:
                parts.append(part)
        return MediaRef(
            kind=ref.kind,
            parts=tuple(parts),
            origin=ref.origin,
            timestamps_s=ref.timestamps_s,
            duration_s=ref.duration_s,
        )


def _files_shown(part: Locator, origin: str) -> Iterator[str]:
    """The file that ``part`` is; for a picture in a table, the files with its name, which would be the same picture."""
    if isinstance(part, InFile):
        yield part.path
    elif isinstance(part, InParquet | InArrow):
        yield origin
        yield posixpath.normpath(posixpath.join(folder_of(part.path), origin))
