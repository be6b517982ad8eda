"""The folder of a run of ``mimicit annotate`` while it is held: the store, the records, and the jobs they give.

``--dry-run`` prints one whole request, and what all would cost, without sending anything (`preview`).

A recipe can show a record together with those that are most like it: by their words (hashed, see
`mimicit.embedding.light`) or by their first picture. Each record is compared with all of its stretch of 65,536 records,
which takes a minute or two of one core for a stretch. The arithmetic is exact: every machine finds the same neighbours.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from mimicit.annotating.limits import Cost, estimated
from mimicit.annotating.pictures import Pictures
from mimicit.annotating.recipe import Recipe
from mimicit.annotating.records import Dropped, Record, RecordTable
from mimicit.annotating.store import Store, request_hash
from mimicit.annotating.wording import Job, request_of, shortened, unfit
from mimicit.embedding.light import ClassicalPicture, HashedText
from mimicit.embedding.vectors import NOTHING, nearest, quantise
from mimicit.errors import AnnotateError, RejectedError, UsageError
from mimicit.progress import Progress
from mimicit.shards.folders import make_folder
from mimicit.sources.files.root import Root

WORK_NAME: Final = ".annotate"
_STORE_NAME: Final = "answers"

_LOOKED_AT: Final = 200  # jobs; the rest is taken to be like them

_STRETCH: Final = 65_536
_BLOCK: Final = 1_024


class Work:
    """The folder ``out`` while a run holds it: the store, the records under ``src`` and the jobs they give.

    Use as a context manager. With a ``limit``, only the first ``limit`` records are taken.
    """

    def __init__(
        self, src: Path, out: Path, recipe: Recipe, *, root: Root, limit: int | None, format: str | None
    ) -> None:
        real_src, real_out = src.resolve(), out.resolve()
        if real_out == real_src or real_out.is_relative_to(real_src) or real_src.is_relative_to(real_out):
            raise UsageError(f"--out {out}: must lie beside --src, neither in it nor around it")
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out}: is a file; give it a folder")
        self.out, self.recipe, self.root = out, recipe, root
        self._limit = limit
        self.folder = out / WORK_NAME
        out.mkdir(parents=True, exist_ok=True)
        make_folder(self.folder)
        self.store = Store(self.folder / _STORE_NAME)
        self._table = RecordTable(root, self.folder / "records.tmp", format=format)
        self._similar: list[tuple[int, ...]] = []
        self.records = 0

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()
        self.store.close()
        for name in ("records.tmp", "outcomes.tmp", "decided.tmp"):
            (self.folder / name).unlink(missing_ok=True)

    def read(self, progress: Progress) -> int:
        """Read the records; return the number of jobs."""
        if self.store.cut_bytes:
            progress.note(f"{self.store.path}: {self.store.cut_bytes:,} bytes of an unfinished line were cut off")
        count = self._table.fill(lambda stage, done: progress.update(stage, done, None))
        for note in self._table.notes:
            progress.note(note)
        self.records = count if self._limit is None else min(count, self._limit)
        if self.recipe.neighbours:
            progress.update("compare", 0, 1)
            self._compare()
            progress.update("compare", 1, 1)
        return self.records * len(self.recipe.languages)

    @property
    def triplets(self) -> int:
        """How many records of the input there were."""
        return self._table.triplets

    @property
    def dropped_input(self) -> list[Dropped]:
        """The records of the input that cannot be asked about."""
        return self._table.dropped

    def jobs(self) -> Iterator[tuple[str, Job | Dropped]]:
        """(id, job) in order, with a `Dropped` in place of a job whose record could not be made."""
        languages = self.recipe.languages
        for place, record in zip(range(self.records), self._table.records(), strict=False):
            for number, language in enumerate(languages, place * len(languages)):
                if isinstance(record, Dropped):
                    yield record.id, record
                else:
                    near = self._similar[place] if self._similar else ()
                    job = Job(
                        number=number,
                        record=record,
                        language=language,
                        neighbours=tuple(other * len(languages) + number % len(languages) for other in near),
                        beside=tuple(words for other in near for words in self._table.words(other)),
                    )
                    yield job.id, job

    def _compare(self) -> None:
        """Find the neighbours of each record among those that the recipe asks about."""

        def fit() -> Iterator[Record | None]:
            for _, record in zip(range(self.records), self._table.records(), strict=False):
                yield None if isinstance(record, Dropped) or unfit(record, self.recipe) else record

        self._table.keep_words("" if record is None else _plain_words(record) for record in fit())
        if self.recipe.neighbours_by == "words":
            self._similar = _similar_by_words(self._table.words(), self.recipe.neighbours)
            return
        pictures = Pictures(self.root, size=self.recipe.size, frames=1)
        try:
            self._similar = asyncio.run(_similar_by_picture(fit(), pictures, self.recipe.neighbours))
        finally:
            pictures.close()

    def sound_jobs(self) -> Iterator[tuple[str, Job | None]]:
        """As `jobs`, with None in place of a `Dropped`."""
        return ((id, None if isinstance(job, Dropped) else job) for id, job in self.jobs())


@contextmanager
def refusals_named(out: Path) -> Iterator[None]:
    """Turn errors of the system within the block into an `AnnotateError` that names the file, or else ``out``."""
    try:
        yield
    except OSError as error:
        raise _go_on(error.filename or out, error.strerror or str(error)) from error
    except sqlite3.OperationalError as error:
        raise _go_on(out / WORK_NAME, str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The first ``request`` that would be made (indented JSON; empty if there is none), and estimates.

    Of ``jobs``, about ``unfit`` are not asked about, ``answered`` are in the store, and the rest costs ``cost``.
    """

    request: str
    jobs: int
    unfit: int
    answered: int
    requests: int
    cost: Cost


def preview(work: Work, model: str, progress: Progress) -> Preview:
    """Estimate from the first jobs of ``work`` what a run would ask and cost."""
    return asyncio.run(_preview(work, model, work.read(progress)))


def _go_on(place: object, why: str) -> AnnotateError:
    return AnnotateError(f"{place}: {why}; fix this and run the same command again to go on")


async def _preview(work: Work, model: str, jobs: int) -> Preview:
    recipe = work.recipe
    pictures = Pictures(work.root, size=recipe.size, frames=recipe.frames)
    shown, looked_at, unfit_jobs, answered = "", 0, 0, 0
    costs: list[Cost] = []
    try:
        for (_, job), _ in zip(work.jobs(), range(_LOOKED_AT), strict=False):
            looked_at += 1
            try:
                body = await _body(work, job, model, pictures)
            except RejectedError:
                unfit_jobs += 1
                continue
            if request_hash(body) in work.store:
                answered += 1
                continue
            shown = shown or shortened(body)
            costs.append(estimated(body, orjson.loads(body).get("max_tokens")))
    finally:
        pictures.close()
    scale = jobs / looked_at if looked_at else 0.0
    total = Cost(
        round(scale * sum(cost.input_tokens for cost in costs)),
        round(scale * sum(cost.output_tokens for cost in costs)),
    )
    counts = (round(scale * count) for count in (unfit_jobs, answered, len(costs)))
    left_out, known, requests = counts
    return Preview(request=shown, jobs=jobs, unfit=left_out, answered=known, requests=requests, cost=total)


async def _body(work: Work, job: Job | Dropped, model: str, pictures: Pictures) -> bytes:
    if isinstance(job, Dropped):
        raise RejectedError(job.reason, job.detail)
    why = unfit(job.record, work.recipe)
    if why:
        raise RejectedError("unfit", why)
    sent = await pictures.of(job.record.media) if work.recipe.pictures == "send" else ()
    return request_of(job, work.recipe, model, sent)


def _plain_words(record: Record) -> str:
    """What is known of ``record``, one fact a line; empty if nothing is."""
    pairs = (f"- {question} {answer}" for question, answer in record.pairs)
    return "\n".join(
        [
            *(f"- {caption}" for caption in record.captions),
            *pairs,
            *(f"- there is: {box.label}" for box in record.boxes),
            *(f"- {moment.start_s:.1f} s: {moment.text}" for moment in record.moments),
        ]
    )


def _similar_by_words(words: Iterable[str], count: int) -> list[tuple[int, ...]]:
    """For each of ``words`` the numbers of the ``count`` others most like it, nearest first; none for an empty text."""
    found: list[tuple[int, ...]] = []
    for stretch in _stretches(words, _STRETCH):
        embedder = HashedText(stretch)
        blocks = [quantise(embedder.embed(block)) for block in _stretches(stretch, _BLOCK)]
        found += _nearest(np.concatenate(blocks), count, len(found))
    return found


async def _similar_by_picture(
    records: Iterable[Record | None], pictures: Pictures, count: int
) -> list[tuple[int, ...]]:
    """As `_similar_by_words`, by the first picture or frame of each; none for a record without pictures."""
    found: list[tuple[int, ...]] = []
    embedder = ClassicalPicture()
    for stretch in _stretches(records, _STRETCH):
        vectors = []
        for record in stretch:
            try:
                shown = await pictures.of(record.media[:1]) if record is not None else []
            except RejectedError:  # it is rejected for that when it is asked about
                shown = []
            vectors.append(embedder.embed([shown[0][1]])[0] if shown else None)
        width = next((len(vector) for vector in vectors if vector is not None), 1)
        rows = [np.zeros(width) if vector is None else vector for vector in vectors]
        found += _nearest(quantise(np.array(rows)), count, len(found))
    return found


def _nearest(vectors: npt.NDArray[Any], count: int, first: int) -> Iterator[tuple[int, ...]]:
    says_something = np.abs(vectors).max(axis=1, initial=0)
    for rows in _stretches(range(len(vectors)), _BLOCK):
        numbers = nearest(vectors, np.array(rows, np.uint32), count)
        for row, others in zip(rows, numbers, strict=True):
            real = (int(other) for other in others if other != NOTHING and says_something[other])
            yield tuple(first + other for other in real) if says_something[row] else ()


def _stretches(values: Iterable[Any], size: int) -> Iterator[Sequence[Any]]:
    stretch: list[Any] = []
    for value in values:
        stretch.append(value)
        if len(stretch) == size:
            yield stretch
            stretch = []
    if stretch:
        yield stretch
