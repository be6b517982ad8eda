"""The distinct texts and pictures of the triplets, and marks to find duplicates: a SQLite file, written once.

A *text* is an instruction (or instruction and answer) without case, punctuation and spacing; a *picture* is all that a
triplet shows, by content. The texts of a source have consecutive numbers, in the order of their first triplet; so have
its pictures.

If the context of a source comes from another source, the tables hold the other's triplets in place of its own, apart
from its queries. They are there a second time, in rows beyond those of TRIPLETS (see `lent_row`), and their texts and
pictures have the first numbers of the source: only these are searched.

Next to the file are arrays that are filled block by block, in any order; a build that was killed resumes them.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.parts import ColumnFile, numbered
from mimicit.pipeline.similarity import ComparedText
from mimicit.progress import Progress

Kind = Literal["text", "picture"]
_KINDS: Final[tuple[Kind, ...]] = ("text", "picture")

_SENTENCE_WORDS: Final = 5
_WORD: Final = re.compile(r"\w+")
_TABLES: Final = """
CREATE TABLE triplet(
    row INTEGER PRIMARY KEY, source INTEGER NOT NULL, is_query INTEGER NOT NULL,
    text INTEGER, picture INTEGER,                              -- hashes; NULL where they are not compared
    question INTEGER NOT NULL, answer INTEGER NOT NULL,         -- hashes
    sentence INTEGER NOT NULL                                   -- whether the answer is one
);
CREATE TABLE text(
    number INTEGER PRIMARY KEY, source INTEGER NOT NULL, hash INTEGER NOT NULL, row INTEGER NOT NULL,
    wanted INTEGER NOT NULL,                                    -- whether a query has it
    known INTEGER NOT NULL                                      -- whether a triplet that may be context has it
);
CREATE TABLE picture(
    number INTEGER PRIMARY KEY, source INTEGER NOT NULL, hash INTEGER NOT NULL, row INTEGER NOT NULL,
    wanted INTEGER NOT NULL, known INTEGER NOT NULL
);
CREATE TABLE closed(source INTEGER NOT NULL, question INTEGER NOT NULL, PRIMARY KEY(source, question)) WITHOUT ROWID;
"""

_INDEXES: Final = """
CREATE UNIQUE INDEX text_hash ON text(source, hash);
CREATE UNIQUE INDEX picture_hash ON picture(source, hash);
CREATE INDEX triplet_text ON triplet(source, text, row) WHERE text IS NOT NULL;
CREATE INDEX triplet_picture ON triplet(source, picture, row) WHERE picture IS NOT NULL;
"""

# A question is closed if at least half of the triplets that ask it share their answer with another of them.
_CLOSED: Final = """
INSERT INTO closed
SELECT source, question FROM (
    SELECT source, question, count(*) AS times FROM triplet GROUP BY source, question, answer
) GROUP BY source, question HAVING 2 * sum(CASE WHEN times > 1 THEN times ELSE 0 END) >= sum(times) AND sum(times) > 1
"""

Task = TypeVar("Task")
Filled: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""(numbers of rows, the values of these rows)."""

_DONE_SUFFIX: Final = ".done"


class Span(NamedTuple):
    """The numbers ``first`` to ``end`` (not included) of ``source``; the first ``known`` are those of its context."""

    source: int
    first: int
    end: int
    known: int


def lent_row(row: int, source: int, rows: int) -> int:
    """The row in these tables of a triplet in ``row`` of TRIPLETS, which has ``rows``, if it is lent to ``source``."""
    return rows * (source + 1) + row


def plain_text(text: str) -> str:
    """The words of ``text``, without case, punctuation and spacing; a text without words is only stripped."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def write_tables(
    path: Path,
    triplets: ColumnFile,
    compared: Mapping[int, frozenset[Kind]],
    lenders: Mapping[int, int],
    text: ComparedText,
) -> None:
    """Write the tables of TRIPLETS to ``path``; ``compared`` maps a source's number to the kinds to compare.

    ``lenders`` maps a source to the other source that its context comes from. The file appears whole or not at all.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    db = sqlite3.connect(temporary.absolute().as_uri(), uri=True, isolation_level=None)
    try:
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;" + _TABLES)
        db.execute("BEGIN")
        db.executemany("INSERT INTO triplet VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _rows(triplets, compared, lenders, text))
        lent = ", ".join(map(str, sorted(lenders))) or "NULL"
        known = f"CASE WHEN source IN ({lent}) THEN max(row) >= {triplets.rows} ELSE 1 END"
        for kind in _KINDS:
            db.execute(
                f"INSERT INTO {kind}(number, source, hash, row, wanted, known)"
                f" SELECT row_number() OVER (ORDER BY source, {known} DESC, min(row)) - 1, source, {kind}, min(row),"
                f" max(is_query), {known} FROM triplet WHERE {kind} IS NOT NULL GROUP BY source, {kind}"
            )
        db.execute(_CLOSED)
        db.execute("COMMIT")
        db.executescript(_INDEXES)
    finally:
        db.close()
    descriptor = os.open(temporary, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    os.replace(temporary, path)


class Says(NamedTuple):
    """Hashes of a triplet's question and answer, and whether the answer is a sentence: 5 words or more."""

    question: int
    answer: int
    sentence: bool


def says(instruction: str, answer: str) -> Says:
    """The `Says` of a triplet."""
    plain = plain_text(answer)
    question = _hash(plain_text(instruction))
    return Says(question, _hash(plain), plain.count(" ") >= _SENTENCE_WORDS - 1)


def open_tables(path: Path) -> sqlite3.Connection:
    """A connection for reading what `write_tables` wrote; any number of processes may have one."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)


def spans(tables: sqlite3.Connection, kind: Kind) -> list[Span]:
    """The span of numbers of each source that has any, in order."""
    rows = tables.execute(
        f"SELECT source, min(number), max(number) + 1, sum(known) FROM {kind} GROUP BY source ORDER BY source"
    )
    return [Span(*row) for row in rows]


def ranges(rows: int, size: int) -> list[tuple[int, int]]:
    """(first, end) of consecutive blocks of ``size`` rows; the last may be shorter."""
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def mapped(path: Path) -> npt.NDArray[Any]:
    """The array at ``path`` for reading, mapped into memory."""
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return array


def fill(
    path: Path,
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    tasks: Sequence[Task],
    function: Callable[[Task], Filled],
    engine: Engine | None,
    progress: Progress,
    label: str,
) -> None:
    """Make the array [rows, columns] at ``path`` from the results of ``function`` for each task.

    Tasks that were finished before are not run again. ``engine`` runs them; if it is ``None``, this process does.
    """
    array = _opened(path, dtype, shape)
    done = _opened(path.with_name(path.name + _DONE_SUFFIX), np.uint8, (len(tasks),))
    todo = [(number, tasks[number]) for number in np.flatnonzero(done == 0).tolist()]
    run = partial(_run_numbered, function)
    results = _here(run, todo) if engine is None else engine.run(run, todo, label=label, progress=progress)
    for count, ((number, _), (rows, values)) in enumerate(results, 1):
        array[rows] = values
        array.flush()  # the values must be on disk before the flag that says so
        done[number] = 1
        done.flush()
        progress.update(label, count, len(todo))


def _rows(
    triplets: ColumnFile, compared: Mapping[int, frozenset[Kind]], lenders: Mapping[int, int], text: ComparedText
) -> Iterator[tuple[Any, ...]]:
    borrowers = {lender: [one for one in sorted(compared) if lenders.get(one) == lender] for lender in lenders.values()}
    columns = ["source", "is_query", "instruction", "answer", "shown", "parts"]
    for batch in numbered(triplets.path, columns):
        for row, source, is_query, instruction, answer, shown, parts in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            asking = source in compared and (is_query or source not in lenders)
            stands = [(row, source, is_query)] if asking else []
            stands += [(lent_row(row, one, triplets.rows), one, False) for one in borrowers.get(source, ())]
            if not stands or parts:  # documents have no context
                continue
            marks = says(instruction, answer)
            words = marks.question if text == "instruction" else _hash(f"{marks.question} {marks.answer}")
            for place, group, asks in stands:
                kinds = compared[group]
                yield (
                    *(place, group, asks),
                    words if "text" in kinds else None,
                    _hash(shown) if "picture" in kinds and shown else None,
                    *marks,
                )


def _hash(text: str) -> int:
    """A hash of 64 bits, signed as in SQLite."""
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _run_numbered(function: Callable[[Task], Filled], task: tuple[int, Task]) -> Filled:
    return function(task[1])


def _here(
    run: Callable[[tuple[int, Task]], Filled], tasks: Iterable[tuple[int, Task]]
) -> Iterator[tuple[tuple[int, Task], Filled]]:
    for task in tasks:
        yield task, run(task)


def _opened(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Any:
    """The array at ``path``, made of zeros if missing; it appears whole, so a kill leaves no half-written header."""
    if not path.exists():
        temporary = path.with_name(path.name + ".tmp")
        np.lib.format.open_memmap(temporary, "w+", dtype, shape)
        with open(temporary, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)  # a full disk fails here, not as SIGBUS
        os.replace(temporary, path)
    return np.load(path, mmap_mode="r+")
