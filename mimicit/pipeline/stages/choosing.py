"""Choose the context of every query, and write each sample's JSON: the bytes that packing copies into a shard.

Every task takes a range of TRIPLETS and writes one part of SAMPLES; a part that exists is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from mimicit.context.candidates import Guards
from mimicit.context.choose import STRATEGIES, choose, parse_strategies, relations_of
from mimicit.pipeline.config import SourceRules
from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.parts import ColumnFile, batches_of_rows, write_columns
from mimicit.pipeline.ragged import Numbers, sums
from mimicit.pipeline.similarity.search import lenders
from mimicit.pipeline.stages.pool import TripletPool
from mimicit.pipeline.stages.sample_json import Chosen, SampleWriter
from mimicit.pipeline.tables import TRIPLETS, TRIPLETS_NAME
from mimicit.progress import Progress
from mimicit.shards.index import RELATIONS

_FOLDER: Final = "samples"
_TASK_QUERIES: Final = 8_192
_MAPPED_QUERIES: Final = 1_024  # queries between two releases of the memory that random draws map of TRIPLETS
_BATCH_BYTES: Final = 16 << 20  # of texts
_SAID: Final = ("id", "instruction", "answer", "media")
_SAID_SCHEMA: Final = pa.schema([TRIPLETS.field(name) for name in _SAID])

_Why: TypeAlias = tuple[str | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """The queries among the rows ``first`` to ``end`` (not included) of TRIPLETS, for the part ``path``."""

    work: Path
    path: Path
    rules: Mapping[str, SourceRules]
    seed: int
    guards: Guards
    first: int
    end: int


def choose_contexts(
    work: Path,
    rules: Mapping[str, SourceRules],
    guards: Guards,
    seed: int,
    engine: Engine,
    progress: Progress,
) -> None:
    """Write all parts of SAMPLES; resumable.

    ``rules`` maps each source's name, in the order of the numbers, to how many triplets of context its queries get, and
    by which strategies.
    """
    (work / _FOLDER).mkdir(exist_ok=True)
    tasks = [
        _Task(work=work, path=path, rules=rules, seed=seed, guards=guards, first=first, end=end)
        for number, (first, end) in enumerate(_ranges(work))
        if not (path := work / _FOLDER / f"{number:08d}.arrow").exists()
    ]
    for _ in engine.run(_choose_task, tasks, label="choose", progress=progress, total=len(tasks)):
        pass


def sample_parts(work: Path) -> list[Path]:
    """The parts of SAMPLES, in order."""
    return sorted((work / _FOLDER).glob("*.arrow"))


def _ranges(work: Path) -> list[tuple[int, int]]:
    """Ranges of rows that hold `_TASK_QUERIES` queries each; the last may hold fewer."""
    queries = np.flatnonzero(ColumnFile(work / TRIPLETS_NAME).column("is_query"))
    starts = queries[::_TASK_QUERIES].tolist()
    return list(zip(starts, [*starts[1:], int(queries[-1]) + 1], strict=True)) if starts else []


def _choose_task(task: _Task) -> None:
    """Write one part; runs in a worker."""
    pool = TripletPool(task.work, list(task.rules), lenders(task.rules))
    try:
        relations = relations_of(name for rule in task.rules.values() for name in parse_strategies(rule.context))
        writer = SampleWriter(pool.media, [*RELATIONS, *sorted(relations.difference(RELATIONS))])
        write_columns(task.path, writer.schema, _samples(task, pool, writer))
    finally:
        pool.close()


def _samples(task: _Task, pool: TripletPool, writer: SampleWriter) -> Iterator[pa.RecordBatch]:
    """The rows of SAMPLES of the task, in order."""
    is_query = pool.triplets.table(["is_query"]).slice(task.first, task.end - task.first).column(0).to_numpy()
    queries = np.flatnonzero(is_query) + task.first
    is_document = pool.triplets.bytes_of(["parts"], queries) > 0
    why: dict[_Why, int] = {(None, None): 0}
    rows, reasons, counts = _contexts(task, pool, queries, is_document, why)
    sizes = pool.triplets.bytes_of(["meta", "parts"], queries) + sums(_bytes_said(pool, rows), counts)
    cut = (np.diff(np.cumsum(sizes) // _BATCH_BYTES) > 0) | np.diff(is_document)
    for first, end in pairwise([0, *(np.flatnonzero(cut) + 1).tolist(), len(queries)]):
        pool.give_back()
        if is_document[first]:
            yield writer.rows(_documents(pool, queries[first:end]))
            continue
        some = slice(counts[:first].sum(), counts[:end].sum())
        distinct, triplets = np.unique(rows[some], return_inverse=True)
        yield writer.rows(
            Chosen(
                said=_said(pool, distinct),
                triplets=triplets,
                reasons=reasons[some],
                why=list(why),
                counts=counts[first:end],
                sources=_sources(pool, queries[first:end]),
                meta=pool.triplets.take(["meta"], queries[first:end]).column(0),
            )
        )


def _contexts(
    task: _Task, pool: TripletPool, queries: Numbers, is_document: NDArray[np.bool_], why: dict[_Why, int]
) -> tuple[Numbers, Numbers, Numbers]:
    """(rows of all triplets of the samples, the places of their reasons in ``why``, how many each sample has).

    A document counts as its query alone. Triplets that another source lends get their row plus the rows of TRIPLETS,
    so that `_said` tells them apart.
    """
    rules = {source: (parse_strategies(rule.context), rule.shots) for source, rule in task.rules.items()}
    rows: list[int] = []
    reasons: list[int] = []
    counts: list[int] = []
    for source, some in _by_source(pool, queries):
        strategies, shots = rules[source]
        beyond = 0 if task.rules[source].context_from is None else pool.triplets.rows
        turns = _turns_alone(pool, queries[some], strategies, shots)
        of_turns = [why.setdefault((STRATEGIES["conversation"][0], None), len(why))] * shots if any(turns) else []
        asked = zip(queries[some].tolist(), is_document[some].tolist(), turns, strict=True)
        for number, (query, whole, before) in enumerate(asked):
            if number % _MAPPED_QUERIES == 0:
                pool.give_back()
            if before is not None and not whole:
                rows += before
                reasons += of_turns
                counts.append(len(before) + 1)
            else:
                context = [] if whole else choose(query, pool, strategies, shots, task.seed, task.guards)
                for row, relation, score in reversed(context):
                    rows.append(row + beyond)
                    reasons.append(why.setdefault((relation, score), len(why)))
                counts.append(len(context) + 1)
            rows.append(query)
            reasons.append(0)
    return np.array(rows), np.array(reasons), np.array(counts)


def _by_source(pool: TripletPool, queries: Numbers) -> Iterator[tuple[str, slice]]:
    """(name of a source, the places of its ``queries``, which ascend)."""
    start = 0
    while start < len(queries):
        first = int(queries[start])
        end = int(np.searchsorted(queries, pool.own_rows(first).stop))
        yield pool.source(first), slice(start, end)
        start = end


def _turns_alone(
    pool: TripletPool, queries: Numbers, strategies: Sequence[str], shots: int
) -> Sequence[list[int] | None]:
    """For each query what `choose` returns, computed for all in one go, if that is only turns before it; else None."""
    if not shots or strategies[:1] != ("conversation",):
        return [None] * len(queries)
    turns, are_all = pool.turns_before(queries, shots)
    return [before if all else None for before, all in zip(turns[:, ::-1].tolist(), are_all.tolist(), strict=True)]


def _sources(pool: TripletPool, queries: Numbers) -> list[str]:
    """The name of the source of each of the ``queries``, which ascend."""
    return [name for name, some in _by_source(pool, queries) for _ in range(some.stop - some.start)]


def _said(pool: TripletPool, rows: Numbers) -> pa.RecordBatch:
    """The columns `_SAID` of the triplets in ``rows``; the id of a lent one becomes ``SOURCE/ID``."""
    own, lent = _own_and_lent(pool, rows)
    if not len(lent):
        return pool.triplets.take(_SAID, own)
    said = pool.triplets.take(_SAID, lent)
    ids = [f"{pool.source(row)}/{id}" for row, id in zip(lent.tolist(), said.column("id").to_pylist(), strict=True)]
    columns = {**{name: said.column(name) for name in _SAID}, "id": pa.array(ids, said.schema.field("id").type)}
    renamed = pa.record_batch(list(columns.values()), schema=said.schema)
    return pa.concat_batches([pool.triplets.take(_SAID, own), renamed]) if len(own) else renamed


def _own_and_lent(pool: TripletPool, rows: Numbers) -> tuple[Numbers, Numbers]:
    """The ``rows`` (ascending) of triplets that are not lent, and the rows in TRIPLETS of those that are."""
    count = int(np.searchsorted(rows, pool.triplets.rows))
    return rows[:count], rows[count:] - pool.triplets.rows


def _bytes_said(pool: TripletPool, rows: Numbers) -> Numbers:
    distinct, places = np.unique(rows, return_inverse=True)
    sizes: Numbers = np.concatenate([pool.triplets.bytes_of(_SAID[:3], part) for part in _own_and_lent(pool, distinct)])
    return sizes[places]


def _documents(pool: TripletPool, queries: Numbers) -> Chosen:
    """Interleaved documents: the media of each in order, every run of media before its text."""
    rows = pool.triplets.take(["id", "parts", "media", "source", "meta"], queries)
    said: list[tuple[str, str, str, list[int]]] = []
    counts: list[int] = []
    for id, data, media in zip(*(rows.column(name).to_pylist() for name in ("id", "parts", "media")), strict=True):
        parts = orjson.loads(data)
        start = 0
        for place, (count, text) in enumerate(parts, 1 - len(parts)):
            said.append((f"{id}#{place + len(parts) - 1}" if place else id, "", text, media[start : start + count]))
            start += count
        counts.append(len(parts))
    return Chosen(
        said=next(batches_of_rows(said, _SAID_SCHEMA)),
        triplets=np.arange(len(said)),
        reasons=np.zeros(len(said), np.int64),
        why=[("document", None)],
        counts=np.array(counts),
        sources=_sources(pool, queries),
        meta=rows.column("meta"),
    )
