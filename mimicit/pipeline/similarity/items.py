"""From the numbers of texts and pictures to their vectors: what is read, and how it becomes one vector each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mimicit.embedding.registry import Embedder
from mimicit.embedding.vectors import Int8, VectorCache, quantise
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.similarity.options import ComparedText
from mimicit.pipeline.similarity.tables import Kind, open_tables
from mimicit.pipeline.stages.stored_media import StoredMedia
from mimicit.pipeline.tables import TRIPLETS_NAME

__all__ = ["EmbedTask", "embed_items", "sample_texts"]

_FILES: Final = 8  # pictures or frames of one triplet that are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedTask:
    """The numbers ``first`` to ``end`` (not included) of ``kind``; ``cache`` is the folder of known vectors."""

    work: Path
    tables: Path
    kind: Kind
    text: ComparedText
    first: int
    end: int
    embedder: Embedder[Any]
    cache: Path | None


def embed_items(task: EmbedTask) -> tuple[npt.NDArray[np.int64], Int8]:
    """The numbers of ``task``, and their vectors int8[n, d]."""
    with closing(open_tables(task.tables)) as tables:
        found = tables.execute(
            f"SELECT row FROM {task.kind} WHERE number >= ? AND number < ? ORDER BY number", (task.first, task.end)
        ).fetchall()
    triplets = ColumnFile(task.work / TRIPLETS_NAME)
    rows = [row % triplets.rows for (row,) in found]  # also of those that are lent
    if task.kind == "text":
        texts = [_text(triplets, row, task.text) for row in rows]
        vectors = _embed(task, texts, [hashlib.sha256(text.encode()).digest() for text in texts])
    else:
        vectors = _embed_pictures(task, triplets, rows)
    return np.arange(task.first, task.end), vectors


def sample_texts(work: Path, tables: Path, text: ComparedText, most: int) -> list[str]:
    """Up to ``most`` of the distinct texts, evenly spaced."""
    with closing(open_tables(tables)) as db:
        (count,) = db.execute("SELECT count(*) FROM text").fetchone()
        step = -(-count // most) or 1
        rows = db.execute("SELECT row FROM text WHERE number % ? = 0 ORDER BY number", (step,)).fetchall()
    triplets = ColumnFile(work / TRIPLETS_NAME)
    return [_text(triplets, row % triplets.rows, text) for (row,) in rows]


def _text(triplets: ColumnFile, row: int, text: ComparedText) -> str:
    instruction = triplets.text("instruction", row)
    return instruction if text == "instruction" else f"{instruction}\n{triplets.text('answer', row)}"


def _embed_pictures(task: EmbedTask, triplets: ColumnFile, rows: Sequence[int]) -> Int8:
    """One vector for all that each triplet shows: the sum of those of its pictures and frames, evenly spaced."""
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
    vectors = _embed(task, stored, digests)
    return quantise(np.add.reduceat(vectors.astype(np.int64), starts, axis=0))


def _embed(task: EmbedTask, items: Sequence[str | bytes], digests: Sequence[bytes]) -> Int8:
    """int8[n, d] of ``items``, from the cache where it has them."""

    def compute(places: list[int]) -> Int8:
        return quantise(task.embedder.embed([items[place] for place in places]))

    if task.cache is None:
        return compute(list(range(len(items))))
    with closing(VectorCache(task.cache, task.embedder.fingerprint)) as cache:
        return cache.vectors(digests, compute)
