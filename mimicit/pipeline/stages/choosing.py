"""Choose the context of every query, and write each sample's JSON: the bytes that packing copies into a shard.

Every task takes a range of TRIPLETS and writes one part of SAMPLES; a part that is there is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from mimicit.context.assemble import shown_anew
from mimicit.context.choose import Choice, choose, parse_strategies
from mimicit.context.neighbours import Guards
from mimicit.pipeline.config import SourceRules
from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.parts import ColumnFile, batches_of_rows, write_columns
from mimicit.pipeline.progress import Progress
from mimicit.pipeline.stages.pool import TripletPool
from mimicit.pipeline.tables import SAMPLES, TRIPLETS_NAME
from mimicit.records import FORMAT, sample_key
from mimicit.schema import canonical_json
from mimicit.shards.index import RELATIONS
from mimicit.shards.tar import member_span

__all__ = ["choose_contexts", "sample_parts"]

_FOLDER: Final = "samples"
_TASK_QUERIES: Final = 4_096
_MEDIA_KEPT: Final = 1 << 14  # descriptions of media, some 10 MB
_RELATION_PLACES: Final = {name: place for place, name in enumerate(RELATIONS)}


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


class _Said(NamedTuple):
    """One triplet of a sample before its media are numbered: ``media`` are rows of MEDIA."""

    id: str
    instruction: str
    answer: str
    media: tuple[int, ...]
    relation: str | None
    score: float | None


class _Described(NamedTuple):
    """A medium as every sample that shows it describes it."""

    fields: Mapping[str, Any]  # of its JSON, without the names of its files
    extension: str
    files: int
    span: int  # bytes that its members take in a shard
    is_video: bool


def choose_contexts(
    work: Path,
    rules: Mapping[str, SourceRules],
    guards: Guards,
    seed: int,
    engine: Engine,
    progress: Progress,
) -> None:
    """Write all parts of SAMPLES; resumable.

    ``rules`` say for every source, by its name and in the order of their numbers, how many triplets of context it gets
    and by which strategies.
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
    pool = TripletPool(task.work, list(task.rules))
    try:
        write_columns(task.path, SAMPLES, _batches(_samples(task, pool)))
    finally:
        pool.close()


def _batches(rows: Iterator[tuple[Any, ...]]) -> Iterator[pa.RecordBatch]:
    return batches_of_rows(rows, SAMPLES)


def _samples(task: _Task, pool: TripletPool) -> Iterator[tuple[Any, ...]]:
    """The rows of SAMPLES, in order."""
    strategies = {source: parse_strategies(rule.context) for source, rule in task.rules.items()}
    described = lru_cache(_MEDIA_KEPT)(lambda number: _described(pool.media, number))
    is_query = pool.triplets.column("is_query")
    for row in (np.flatnonzero(is_query[task.first : task.end]) + task.first).tolist():
        source = pool.source(row)
        if pool.is_document(row):
            said = _document(pool, row)
        else:
            query = pool.candidate(row)
            context = choose(query, pool, strategies[source], task.rules[source].shots, task.seed, task.guards)
            said = [_said(pool, choice.seq, choice) for choice in reversed(context)]
            said.append(_said(pool, row, None))
        yield _sample(said, source, pool.triplets.data("meta", row), described)


def _said(pool: TripletPool, row: int, choice: Choice | None) -> _Said:
    columns, candidate = pool.triplets, pool.candidate(row)
    return _Said(
        candidate.id,
        candidate.instruction,
        columns.text("answer", row),
        tuple(columns.integers("media", row)),
        None if choice is None else choice.relation,
        None if choice is None else choice.score,
    )


def _document(pool: TripletPool, row: int) -> list[_Said]:
    """The parts of an interleaved document: its media in order, each run of them before its text."""
    id = pool.triplets.text("id", row)
    media = pool.triplets.integers("media", row)
    parts = orjson.loads(pool.triplets.data("parts", row))
    said: list[_Said] = []
    start = 0
    for place, (count, text) in enumerate(parts):
        part_id = id if place == len(parts) - 1 else f"{id}#{place}"
        said.append(_Said(part_id, "", text, tuple(media[start : start + count]), "document", None))
        start += count
    return said


def _sample(said: Sequence[_Said], source: str, meta: bytes, described: Any) -> tuple[Any, ...]:
    """One row of SAMPLES: the triplets ``said`` with their media numbered, as JSON, and what the index says of them."""
    id = said[-1].id
    triplets: list[dict[str, Any]] = []
    shown: list[int] = []
    relations = [0] * len(RELATIONS)
    characters = 0
    for one, new in zip(said, shown_anew([one.media for one in said]), strict=True):
        triplet: dict[str, Any] = {
            "id": one.id,
            "role": "context",
            "media": list(range(len(shown), len(shown) + len(new))),
            "instruction": one.instruction,
            "answer": one.answer,
        }
        if one.relation is not None:
            triplet["relation"] = one.relation
            relations[_RELATION_PLACES[one.relation]] += 1
        if one.score is not None:
            triplet["score"] = one.score
        triplets.append(triplet)
        shown.extend(new)
        characters += len(one.instruction) + len(one.answer)
    triplets[-1]["role"] = "query"
    media: list[dict[str, Any]] = []
    frames = videos = span = 0
    for number in shown:
        medium = described(number)
        names = [f"{place:03d}.{medium.extension}" for place in range(frames, frames + medium.files)]
        media.append({**medium.fields, "files": names})
        frames += medium.files
        videos += medium.is_video
        span += medium.span
    value = {"format": FORMAT, "id": id, "source": source, "media": media, "triplets": triplets}
    text = canonical_json(value | {"meta": orjson.Fragment(meta)})
    return (
        *(sample_key(source, id), id, source, text, hashlib.sha256(text).digest(), shown),
        *(member_span(len(text)) + span, relations, len(triplets), videos, frames, characters),
    )


def _described(media: ColumnFile, number: int) -> _Described:
    value = orjson.loads(media.data("media", number))
    extension = value.pop("extension")
    fields = {name: part for name, part in value.items() if part is not None}
    sizes = media.integers("sizes", number)
    return _Described(fields, extension, len(sizes), sum(map(member_span, sizes)), value["kind"] == "video")
