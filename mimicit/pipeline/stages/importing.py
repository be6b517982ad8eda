"""Import: every part of every source becomes tables of its records and of what they refer to.

A part is one task: a worker reads it, checks the texts, and writes its tables. The summary of a part is written last,
so a part with a summary is done. What needs the records of other parts (equal ids, pictures by name) is left to
`mimicit.pipeline.stages.resolve`.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import orjson

from mimicit.errors import RejectedError, SchemaError, SourceError
from mimicit.pipeline.config import SourceRules
from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.parts import TableWriter
from mimicit.pipeline.progress import Progress
from mimicit.pipeline.rejects import Phase, RejectWriter
from mimicit.pipeline.stages.filters import Fault, FilterConfig, text_fault
from mimicit.pipeline.stages.references import locator_to_json, place_in_table, ref_to_json
from mimicit.pipeline.tables import NAMES, PICTURES, RECORDS, REFERENCES, TRAINING
from mimicit.prompt import SPECIAL_TOKENS
from mimicit.schema import canonical_json, null_for_nan
from mimicit.shards.files import write_atomically
from mimicit.sources import SOURCES
from mimicit.sources.base import (
    MAX_MEDIA,
    MAX_RELATED,
    MediaRef,
    Named,
    Note,
    Picture,
    Piece,
    RawTriplet,
    Reject,
    SourceSpec,
    TrainEntry,
)
from mimicit.sources.root import Root

__all__ = ["Part", "Summary", "import_parts", "import_sources", "part_rejects", "part_table"]

_FOLDER: Final = "import"
_PIECES_NAME: Final = "pieces"
_MAX_ID_CHARACTERS: Final = 4096  # as in schemas/sample.json
_KNOWN_REFERENCES: Final = 1 << 16  # some 50 MB; beyond, a reference may have several rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What was in a part: ``records``, kept or not, how their files were found, and what is worth saying of them.

    ``notes`` have the count and the place of the first by kind. ``unreadable`` says why nothing could be read.
    """

    records: int = 0
    found: Mapping[str, int]
    notes: Mapping[str, tuple[int, str]]
    unreadable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part that has been imported: its number in the order of the input, its source, and what was in it."""

    number: int
    source: int
    summary: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A part to import: ``number`` in the order of the input, of the source number ``source``."""

    root: Root
    work: Path
    number: int
    source: int
    spec: SourceSpec
    filters: FilterConfig
    keep_going: bool


def import_sources(
    work: Path,
    root: Root,
    specs: Sequence[SourceSpec],
    rules: Mapping[str, SourceRules],
    engine: Engine,
    progress: Progress,
    *,
    keep_going: bool = False,
) -> None:
    """Read all ``specs``; parts that are done are not read again.

    A record whose texts do not pass the filters in ``rules`` (by name of the source) is marked.

    `SourceError` where a source is unreadable as a whole; with ``keep_going``, its summary says so.
    """
    (work / _FOLDER).mkdir(exist_ok=True)
    pieces = _pieces(work, root, specs, engine, progress)
    tasks = [
        _Task(
            root=root,
            work=work,
            number=number,
            source=source,
            spec=replace(specs[source], piece=piece),
            filters=rules[specs[source].name].filters,
            keep_going=keep_going,
        )
        for number, (source, piece) in enumerate(pieces)
        if not _summary_path(work, number).exists()
    ]
    for _ in engine.run(_import_part, tasks, label="import", progress=progress, total=len(tasks)):
        pass


def _pieces(
    work: Path, root: Root, specs: Sequence[SourceSpec], engine: Engine, progress: Progress
) -> list[tuple[int, Piece | None]]:
    """The parts of all sources in order: the number of the source, and its piece, or None for all of it."""
    path = work / _FOLDER / _PIECES_NAME
    if not path.exists():
        tasks = [(number, spec, root) for number, spec in enumerate(specs) if SOURCES[spec.format].split is not None]
        results = engine.run(_split, tasks, label="split", progress=progress, total=len(tasks))
        found: dict[int, Sequence[Piece | None]] = {number: pieces for (number, _, _), pieces in results}
        parts = [(number, piece) for number in range(len(specs)) for piece in found.get(number) or (None,)]
        write_atomically(path, [orjson.dumps(parts)])
    value = orjson.loads(path.read_bytes())
    return [(source, piece and Piece(**{**piece, "paths": tuple(piece["paths"])})) for source, piece in value]


def _split(task: tuple[int, SourceSpec, Root]) -> list[Piece]:
    """The pieces of a source; none where it cannot be read, which importing it will report. Runs in a worker."""
    _, spec, root = task
    split = SOURCES[spec.format].split
    assert split is not None
    try:
        return split(spec, _kept(root))
    except (SourceError, RejectedError):
        return []


def import_parts(work: Path) -> list[Part]:
    """All parts in the order of the input, but for those of sources of which any part was unreadable.

    Of such a source only that part is given.
    """
    parts = [_part(path) for path in sorted((work / _FOLDER).glob("*.json"))]
    unreadable = {part.source: part.number for part in reversed(parts) if part.summary.unreadable is not None}
    return [part for part in parts if unreadable.get(part.source, part.number) == part.number]


def part_table(work: Path, part: int, name: str) -> Path:
    """The table ``name`` of a part; ``records`` is always there, the others only where they have a row."""
    return work / _FOLDER / f"{part:08d}.{name}.arrow"


def part_rejects(work: Path) -> list[Path]:
    """The tables of the rejects of all parts that have any."""
    paths = (part_table(work, part.number, "rejects") for part in import_parts(work))
    return [path for path in paths if path.exists()]


def _summary_path(work: Path, part: int) -> Path:
    return work / _FOLDER / f"{part:08d}.json"


def _part(path: Path) -> Part:
    value = orjson.loads(path.read_bytes())
    return Part(number=int(path.stem), source=value.pop("source"), summary=Summary(**value))


@functools.lru_cache(maxsize=1)
def _kept(root: Root) -> Root:
    """The first of equal roots that this process was given, with what it knows of their files."""
    return root


def _import_part(task: _Task) -> None:
    """Write the tables of one part; runs in a worker."""
    root = _kept(task.root)
    root.found.clear()
    try:
        with _PartWriter(task) as writer:
            for item in SOURCES[task.spec.format].read(task.spec, root):
                writer.add(item)
            root.check_inputs()
        notes = {kind: (count, writer.first_notes[kind]) for kind, count in sorted(writer.notes.items())}
        summary = Summary(records=writer.records, found=dict(sorted(root.found.items())), notes=notes)
    except SourceError as error:
        if not task.keep_going:
            raise
        summary = Summary(found={}, notes={}, unreadable=str(error))
    value = {**asdict(summary), "source": task.source}
    write_atomically(_summary_path(task.work, task.number), [orjson.dumps(value)])


class _PartWriter:
    """Takes the items of one part in their order, and writes them into its tables."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._spec = task.spec
        self._ids_repeat = SOURCES[task.spec.format].ids_repeat

        def table(name: str) -> Path:
            return part_table(task.work, task.number, name)

        self._records = TableWriter(table("records"), RECORDS)
        self._references = TableWriter(table("references"), REFERENCES, skip_empty=True)
        self._names = TableWriter(table("names"), NAMES, skip_empty=True)
        self._pictures = TableWriter(table("pictures"), PICTURES, skip_empty=True)
        self._training = TableWriter(table("training"), TRAINING, skip_empty=True)
        self._rejects = RejectWriter(table("rejects"))
        self._known: dict[MediaRef, tuple[int, bytes]] = {}
        self._items = 0
        self._held = ExitStack()
        self.records = 0
        self.notes: Counter[str] = Counter()
        self.first_notes: dict[str, str] = {}

    def __enter__(self) -> Self:
        tables = (self._records, self._references, self._names, self._pictures, self._training, self._rejects)
        for table in tables:
            self._held.enter_context(table)
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    def add(self, item: RawTriplet | Picture | TrainEntry | Note | Reject) -> None:
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
            case Note():
                self._note(item.kind, item.place)
            case Reject():
                self.records += item.scope == "record"
                self._reject(item)

    def _note(self, kind: str, place: str) -> None:
        self.notes[kind] += 1
        self.first_notes.setdefault(kind, place)

    def _reject(self, reject: Reject) -> None:
        self._rejects.reject(self._task.source, Phase.IMPORT, self._task.number, self._items, reject)

    def _add_record(self, triplet: RawTriplet) -> None:
        fault = _size_fault(triplet)
        if fault is not None:
            reject = self._spec.reject(fault.reason, place=triplet.place, id=triplet.id[:80], detail=fault.detail)
            self._reject(reject)
            return
        try:
            meta = self._meta_json(triplet)
            self._note_tokens(triplet)
            references, shown = self._add_references(triplet.media)
            parts = canonical_json(triplet.parts) if triplet.parts else b""
        except SchemaError as error:
            self._reject(self._spec.reject("malformed", place=triplet.place, id=triplet.id, detail=str(error)))
            return
        texts = (triplet.instruction, triplet.answer)
        faulty = text_fault((*texts, *(text for _, text in triplet.parts)), self._task.filters)
        self._records.add(
            (
                *(self._items, triplet.id, triplet.place, *texts, meta),
                *(triplet.conversation or "", triplet.turn, triplet.is_query, triplet.related, references, parts),
                _says(*texts, shown) if self._ids_repeat else None,
                *((None, None) if faulty is None else faulty),
            )
        )

    def _note_tokens(self, triplet: RawTriplet) -> None:
        texts = (triplet.instruction, triplet.answer, *(text for _, text in triplet.parts))
        if any("<" in text and any(token in text for token in SPECIAL_TOKENS) for text in texts):
            self._note("tokens_as_words", triplet.place)

    def _meta_json(self, triplet: RawTriplet) -> bytes:
        """The free fields as JSON, with null in place of NaN, which is noted. `SchemaError` for the rest."""
        if not triplet.meta:
            return b"{}"
        try:
            return canonical_json(dict(triplet.meta))
        except SchemaError:
            meta = canonical_json(null_for_nan(dict(triplet.meta)))
            self._note("nan_as_null", triplet.place)
            return meta

    def _add_references(self, media: Sequence[MediaRef]) -> tuple[list[int], list[bytes]]:
        """The rows of REFERENCES of ``media``, and their JSON."""
        known = [self._known.get(ref) or self._add_reference(ref) for ref in media]
        return [row for row, _ in known], [text for _, text in known]

    def _add_reference(self, ref: MediaRef) -> tuple[int, bytes]:
        value = ref_to_json(ref)
        text = canonical_json(value)
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


def _says(instruction: str, answer: str, references: Sequence[bytes]) -> bytes:
    """Equal for records that say and show the same."""
    said = b"\0".join((instruction.encode(), answer.encode(), *references))  # none of them holds a NUL
    return hashlib.blake2b(said, digest_size=16).digest()
