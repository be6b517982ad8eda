"""Import: every part of every source becomes tables of its records and of what they refer to.

A part is one task: a worker reads it, checks the texts, and writes its tables. The summary of a part is written last,
so a part with a summary is done. What needs the records of other parts (equal ids, pictures by name) is left to
`mimicit.pipeline.stages.resolve`. If records look up entries elsewhere in their source, the parts that hold the entries
are read first (see `mimicit.pipeline.stages.entries`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from mimicit.errors import RejectedError, SourceError
from mimicit.pipeline.config import SourceRules
from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.rejects import Phase, RejectWriter, rejects_path
from mimicit.pipeline.stages.entries import EntryFinder, EntryTables, index_entries, repeated_entries, unused_entries
from mimicit.pipeline.stages.filters import FilterConfig
from mimicit.pipeline.stages.part_writer import PartWriter
from mimicit.progress import Progress
from mimicit.shards.files import write_atomically
from mimicit.sources import SOURCES
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Entry, Item, Piece

_FOLDER: Final = "import"
_PIECES_NAME: Final = "pieces"
_USED: Final = "used"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What was in a part: how many ``records`` (rejects included), how their files were found, and notes on them.

    ``notes`` maps each kind to its count and the place of the first. ``unreadable`` says why nothing could be read.
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
    looks_up: EntryTables | None
    own: int | None  # the part with the entries of the same piece

    @property
    def is_of_entries(self) -> bool:
        """Whether the part holds entries, which records of other parts look up."""
        return self.spec.piece is not None and self.spec.piece.is_entries


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

    `SourceError` if a source is unreadable as a whole; with ``keep_going``, its summary says so instead.
    """
    (work / _FOLDER).mkdir(exist_ok=True)
    pieces = _pieces(work, root, specs, engine, progress)
    tables = _entry_tables(work, pieces)
    numbers = {part: number for number, part in enumerate(pieces)}
    tasks = [
        _Task(
            root=root.with_media_roots(specs[source].media_roots),
            work=work,
            number=number,
            source=source,
            spec=replace(specs[source], piece=piece),
            filters=rules[specs[source].name].filters,
            keep_going=keep_going,
            looks_up=None if piece is None or piece.is_entries else tables.get(source),
            own=None if piece is None else numbers.get((source, replace(piece, is_entries=True))),
        )
        for number, (source, piece) in enumerate(pieces)
        if not _summary_path(work, number).exists()
    ]
    if tables:
        _run(engine, [task for task in tasks if task.is_of_entries], "entries", progress)
    for of_source in tables.values():
        index_entries(work, of_source)
    _run(engine, [task for task in tasks if not task.is_of_entries], "import", progress)
    if tables:
        _reject_entries(work, specs, tables)


def _run(engine: Engine, tasks: Sequence[_Task], label: str, progress: Progress) -> None:
    for _ in engine.run(_import_part, tasks, label=label, progress=progress, total=len(tasks)):
        pass


def _entry_tables(work: Path, pieces: Sequence[tuple[int, Piece | None]]) -> dict[int, EntryTables]:
    """The tables, by number of the source, of the sources whose entries are pieces of their own."""
    parts: dict[int, list[int]] = {}
    for number, (source, piece) in enumerate(pieces):
        if piece is not None and piece.is_entries:
            parts.setdefault(source, []).append(number)
    return {source: EntryTables(work / _FOLDER, source, tuple(of_source)) for source, of_source in parts.items()}


def _reject_entries(work: Path, specs: Sequence[SourceSpec], tables: Mapping[int, EntryTables]) -> None:
    """Write the rejects of repeated and unused entries, in the order in which reading in one go would."""
    path = rejects_path(work, "entries")
    if path.exists():
        return
    parts = import_parts(work)
    unreadable = {part.source for part in parts if part.summary.unreadable is not None}
    with RejectWriter(path) as rejects:
        for source in sorted(tables.keys() - unreadable):
            spec, join = specs[source], SOURCES[specs[source].format].join
            assert join is not None
            if join.repeated is not None:
                for part, item, entry in repeated_entries(work, tables[source]):
                    if (reject := join.repeated(spec, entry)) is not None:
                        rejects.reject(source, Phase.IMPORT, part, item, reject)
            if join.unused is not None:
                numbers = [part.number for part in parts if part.source == source]
                used = [table for number in numbers if (table := part_table(work, number, _USED)).exists()]
                for place, entry in enumerate(unused_entries(work, tables[source], used)):
                    rejects.reject(source, Phase.IMPORT, numbers[-1] + 1, place, join.unused(spec, entry))


def _pieces(
    work: Path, root: Root, specs: Sequence[SourceSpec], engine: Engine, progress: Progress
) -> list[tuple[int, Piece | None]]:
    """The parts of all sources in order: the number of the source, and the piece of it (None: all of it)."""
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
    """The pieces of a source; empty if it cannot be read, which importing it will report. Runs in a worker."""
    _, spec, root = task
    split = SOURCES[spec.format].split
    assert split is not None
    try:
        return split(spec, _kept(root))
    except (SourceError, RejectedError):
        return []


def import_parts(work: Path) -> list[Part]:
    """All parts in the order of the input; of a source with unreadable parts only the first of those."""
    parts = [_part(path) for path in sorted((work / _FOLDER).glob("*.json"))]
    unreadable = {part.source: part.number for part in reversed(parts) if part.summary.unreadable is not None}
    return [part for part in parts if unreadable.get(part.source, part.number) == part.number]


def part_table(work: Path, part: int, name: str) -> Path:
    """The path of the table ``name`` of a part; ``records`` always exists, the others only if they have a row."""
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
    """The first of equal roots that this process was given, with what that root knows of its files."""
    return root


def _items(task: _Task, root: Root) -> Iterator[Item | Entry]:
    """The items of one part, or its entries."""
    format = SOURCES[task.spec.format]
    if format.join is not None and task.looks_up is not None:
        with EntryFinder(task.looks_up, task.own, part_table(task.work, task.number, _USED)) as entries:
            yield from format.join.records(task.spec, root, entries)
    elif format.join is not None and task.is_of_entries:
        yield from format.join.entries(task.spec, root)
    else:
        yield from format.read(task.spec, root)


def _import_part(task: _Task) -> None:
    """Write the tables of one part; runs in a worker."""
    root = _kept(task.root)
    root.found.clear()
    try:
        table = functools.partial(part_table, task.work, task.number)
        with PartWriter(table, task.number, task.source, task.spec, task.filters) as writer:
            for item in _items(task, root):
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
