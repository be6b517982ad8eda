"""Find the triplets of a source that are alike, by text and by picture, for the strategies that need it.

After TRIPLETS and before the plan, in a folder of the work folder:

- ``tables.sqlite`` numbers the *distinct* texts and the distinct pictures of each source, in the order of the input: a
  question that is asked a thousand times is embedded and searched once, and its thousand copies do not fill the lists
  of neighbours.
- ``text-vectors.npy`` and ``picture-vectors.npy`` hold their vectors, int8[number, d].
- ``text-neighbours.npy`` and ``picture-neighbours.npy`` hold the numbers of the nearest k of each, uint32[number, k].
  If a source has up to 65,536, all are compared; if it has more, those in the nearest cells (see
  `mimicit.embedding.vectors`).

All is done in blocks whose cut depends on the input alone, and all arithmetic after the embedder is exact; so workers,
threads and kills never change a byte. (A model's vectors may differ in the last bit between kinds of hardware.)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mimicit.context.candidates import SIMILAR
from mimicit.context.choose import parse_strategies
from mimicit.embedding.registry import Embedder, image_embedder, is_light, text_embedder
from mimicit.embedding.vectors import (
    NOTHING,
    PROBES,
    Int8,
    VectorCache,
    cell_count,
    nearest,
    nearest_in_cells,
    open_cells,
    probe,
    quantise,
    train_centres,
    write_cells,
)
from mimicit.pipeline.config import SourceRules
from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.similarity import ComparedText, SimilarOptions
from mimicit.pipeline.similarity.pool import TABLES_NAME, neighbours_path, similar_folder, vectors_path
from mimicit.pipeline.similarity.tables import Kind, Span, fill, mapped, open_tables, ranges, spans, write_tables
from mimicit.pipeline.stages.stored_media import StoredMedia
from mimicit.pipeline.tables import TRIPLETS_NAME
from mimicit.progress import Progress
from mimicit.shards.files import publish
from mimicit.shards.folders import remove_folder

_EXACT_ROWS: Final = 65_536  # of one source, which take a minute or two of one core; more are searched by cells
_LEAST_NEIGHBOURS: Final = 32  # the guards and the choice leave out many
_NEIGHBOURS_PER_SHOT: Final = 4
_TEXTS_PER_TASK: Final = 2_048
_PICTURES_PER_TASK: Final = 128
_QUERIES_PER_TASK: Final = 1_024
_SAMPLE_TEXTS: Final = 50_000
_KINDS_OF: Final[dict[str, tuple[Kind, ...]]] = {"both": ("text", "picture"), "image": ("picture",), "text": ("text",)}

_FILES: Final = 8  # pictures or frames of one triplet that are looked at


def find_similar(
    work: Path,
    rules: Mapping[str, SourceRules],
    options: SimilarOptions,
    engine: Engine,
    progress: Progress,
    *,
    cache: Path | None = None,
) -> None:
    """Find the neighbours of all texts and pictures that the strategies in ``rules`` need; resumable.

    ``rules`` maps each source's name to its rules, in the order of their numbers. ``cache`` is a folder where the
    vectors of models are kept beyond this build.
    """
    kinds = {number: _kinds(rule) for number, rule in enumerate(rules.values())}
    compared = {number: some for number, some in kinds.items() if some}
    if not compared:
        return
    folder = similar_folder(work)
    folder.mkdir(exist_ok=True)
    tables = folder / TABLES_NAME
    if not tables.exists():
        write_tables(tables, ColumnFile(work / TRIPLETS_NAME), compared, lenders(rules), options.similar_text)
    shots = max(rule.shots for rule in rules.values() if _kinds(rule))
    count = max(_LEAST_NEIGHBOURS, _NEIGHBOURS_PER_SHOT * shots)
    for kind in sorted({kind for some in compared.values() for kind in some}):
        with closing(open_tables(tables)) as db:
            found = spans(db, kind)
        if found:
            _embed(work, kind, found[-1].end, options, cache, engine, progress)
            _search(folder, kind, found, count, engine, progress)


def lenders(rules: Mapping[str, SourceRules]) -> dict[int, int]:
    """Maps the number of each source whose context comes from another one to the number of that other source."""
    numbers = {name: number for number, name in enumerate(rules)}
    found = ((numbers[name], rule.context_from) for name, rule in rules.items())
    return {number: numbers[other] for number, other in found if other is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """The queries of one task: rows ``first`` to ``end`` of ``span``; with ``cells``, places in the cells' order."""

    folder: Path
    kind: Kind
    span: Span
    first: int
    end: int
    count: int
    cells: Path | None


def _kinds(rule: SourceRules) -> frozenset[Kind]:
    names = parse_strategies(rule.context) if rule.shots else ()
    return frozenset(kind for name in names if name in SIMILAR for kind in _KINDS_OF[SIMILAR[name][1]])


def _embed(
    work: Path,
    kind: Kind,
    rows: int,
    options: SimilarOptions,
    cache: Path | None,
    engine: Engine,
    progress: Progress,
) -> None:
    """Fill the file of vectors; models run in this process, which may have a GPU, other embedders in workers."""
    path = vectors_path(work, kind)
    if path.exists():
        return
    tables = similar_folder(work) / TABLES_NAME
    name = options.text_embedder if kind == "text" else options.image_embedder
    embedder: Embedder[Any]
    if kind == "text":
        embedder = text_embedder(name, _sample_texts(work, tables, options.similar_text, _SAMPLE_TEXTS))
    else:
        embedder = image_embedder(name)
    tasks = [
        _EmbedTask(
            work=work,
            tables=tables,
            kind=kind,
            text=options.similar_text,
            first=first,
            end=end,
            embedder=embedder,
            cache=None if is_light(name) else cache,
        )
        for first, end in ranges(rows, _TEXTS_PER_TASK if kind == "text" else _PICTURES_PER_TASK)
    ]
    model = hashlib.sha256(embedder.fingerprint.encode()).hexdigest()[:16]
    unfinished = path.with_name(f"{path.stem}-{model}.npy")  # no file may mix vectors of two models
    _, one = _embed_items(replace(tasks[0], end=1))
    shape = (rows, one.shape[1])
    fill(
        unfinished, shape, np.int8, tasks, _embed_items, engine if is_light(name) else None, progress, f"embed {kind}s"
    )
    os.replace(unfinished, path)


def _search(folder: Path, kind: Kind, found: list[Span], count: int, engine: Engine, progress: Progress) -> None:
    path = neighbours_path(folder.parent, kind)
    if path.exists():
        return
    tasks: list[_Search] = []
    for span in found:
        rows = span.end - span.first
        cells = _cells(folder, kind, span, engine, progress) if span.known > _EXACT_ROWS else None
        tasks += [
            _Search(folder=folder, kind=kind, span=span, first=first, end=end, count=count, cells=cells)
            for first, end in ranges(rows, _QUERIES_PER_TASK)
        ]
    unfinished = path.with_name(f"{path.stem}-unfinished.npy")
    fill(unfinished, (found[-1].end, count), np.uint32, tasks, _search_task, engine, progress, f"compare {kind}s")
    os.replace(unfinished, path)


def _cells(folder: Path, kind: Kind, span: Span, engine: Engine, progress: Progress) -> Path:
    """The folder of the cells of ``span``, made if missing: centres, the cells that each row probes, rows by cell."""
    home = folder / f"{kind}-cells-{span.source}"
    home.mkdir(exist_ok=True)
    vectors = _of(span, mapped(vectors_path(folder.parent, kind)))
    known = vectors[: span.known]
    if not (home / "centres.npy").exists():
        progress.note(f"comparing {len(known):,} {kind}s by cells")
        with publish(home / "centres.npy", home / "centres.tmp") as file:
            np.save(file, train_centres(known, cell_count(len(known))))
    centres = mapped(home / "centres.npy")
    shape = (len(vectors), min(PROBES, len(centres)))
    tasks = [(folder, kind, span, first, end) for first, end in ranges(len(vectors), _QUERIES_PER_TASK)]
    fill(home / "probes.npy", shape, np.uint32, tasks, _probe_task, engine, progress, f"place {kind}s")
    if not (home / "inverted").exists():
        begun = home / "inverted.tmp"
        remove_folder(begun)
        begun.mkdir()
        write_cells(begun, known, mapped(home / "probes.npy")[: span.known], len(centres))
        os.replace(begun, home / "inverted")
    return home


def _of(span: Span, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array[span.first : span.end]


def _probe_task(task: tuple[Path, Kind, Span, int, int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    folder, kind, span, first, end = task
    vectors = _of(span, mapped(vectors_path(folder.parent, kind)))
    centres = np.asarray(mapped(folder / f"{kind}-cells-{span.source}" / "centres.npy"))
    return np.arange(first, end), probe(np.asarray(vectors[first:end]), centres, PROBES)


def _search_task(task: _Search) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """The numbers of the queries among the rows of ``task``, and the numbers of their neighbours."""
    vectors = _of(task.span, mapped(vectors_path(task.folder.parent, task.kind)))
    if task.cells is None:
        rows = _wanted(task, np.arange(task.first, task.end))
        found = nearest(vectors, rows, task.count, among=task.span.known)
    else:
        cells = open_cells(task.cells / "inverted")
        # First the rows of the cells in their order, then the rows that only queries have.
        others = np.arange(max(task.first, task.span.known), task.end)
        rows = _wanted(task, np.concatenate([cells.rows[task.first : task.end], others]))
        probes = np.asarray(mapped(task.cells / "probes.npy")[rows])
        found = nearest_in_cells(cells, np.asarray(vectors[rows]), rows, probes, task.count)
    numbers = np.where(found == NOTHING, found, found + np.uint32(task.span.first))
    return rows.astype(np.int64) + task.span.first, numbers


def _wanted(task: _Search, rows: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """The ``rows`` that a query has: others are only ever context and need no neighbours."""
    sql = f"SELECT wanted FROM {task.kind} WHERE number = ?"
    with closing(open_tables(task.folder / TABLES_NAME)) as db:
        wanted = [db.execute(sql, (int(row) + task.span.first,)).fetchone()[0] for row in rows]
    chosen: npt.NDArray[np.uint32] = rows[np.array(wanted, bool)].astype(np.uint32)
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class _EmbedTask:
    """The numbers ``first`` to ``end`` (not included) of ``kind``; ``cache`` is the folder of known vectors."""

    work: Path
    tables: Path
    kind: Kind
    text: ComparedText
    first: int
    end: int
    embedder: Embedder[Any]
    cache: Path | None


def _embed_items(task: _EmbedTask) -> tuple[npt.NDArray[np.int64], Int8]:
    """The numbers of the texts or pictures of ``task``, and their vectors int8[n, d]."""
    with closing(open_tables(task.tables)) as tables:
        found = tables.execute(
            f"SELECT row FROM {task.kind} WHERE number >= ? AND number < ? ORDER BY number", (task.first, task.end)
        ).fetchall()
    triplets = ColumnFile(task.work / TRIPLETS_NAME)
    rows = [row % triplets.rows for (row,) in found]  # also of those that are lent
    if task.kind == "text":
        texts = [_text(triplets, row, task.text) for row in rows]
        vectors = _embed_missing(task, texts, [hashlib.sha256(text.encode()).digest() for text in texts])
    else:
        vectors = _embed_pictures(task, triplets, rows)
    return np.arange(task.first, task.end), vectors


def _sample_texts(work: Path, tables: Path, text: ComparedText, most: int) -> list[str]:
    """Up to ``most`` distinct texts, evenly spaced."""
    with closing(open_tables(tables)) as db:
        (count,) = db.execute("SELECT count(*) FROM text").fetchone()
        step = -(-count // most) or 1
        rows = db.execute("SELECT row FROM text WHERE number % ? = 0 ORDER BY number", (step,)).fetchall()
    triplets = ColumnFile(work / TRIPLETS_NAME)
    return [_text(triplets, row % triplets.rows, text) for (row,) in rows]


def _text(triplets: ColumnFile, row: int, text: ComparedText) -> str:
    instruction = triplets.text("instruction", row)
    return instruction if text == "instruction" else f"{instruction}\n{triplets.text('answer', row)}"


def _embed_pictures(task: _EmbedTask, triplets: ColumnFile, rows: Sequence[int]) -> Int8:
    """One vector for each triplet: the sum over up to `_FILES` of its pictures and frames, evenly spaced."""
    stored: list[bytes] = []
    digests: list[bytes] = []
    starts: list[int] = []
    with closing(StoredMedia(task.work)) as media:
        for row in rows:
            files = [file for number in triplets.integers("media", row) for file in media.files(number)]
            few = min(len(files), _FILES)
            starts.append(len(stored))
            for place in ((2 * place + 1) * len(files) // (2 * few) for place in range(few)):
                stored.append(media.read(files[place]))
                digests.append(bytes.fromhex(files[place].sha256))
    vectors = _embed_missing(task, stored, digests)
    return quantise(np.add.reduceat(vectors.astype(np.int64), starts, axis=0))


def _embed_missing(task: _EmbedTask, items: Sequence[str | bytes], digests: Sequence[bytes]) -> Int8:
    """The vectors int8[n, d] of ``items``, from the cache if it has them."""

    def compute(places: list[int]) -> Int8:
        return quantise(task.embedder.embed([items[place] for place in places]))

    if task.cache is None:
        return compute(list(range(len(items))))
    with closing(VectorCache(task.cache, task.embedder.fingerprint)) as cache:
        return cache.vectors(digests, compute)
