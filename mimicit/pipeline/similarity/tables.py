"""Which distinct texts and pictures the triplets have, and by what duplicates are told: a SQLite file, written once.

A *text* is an instruction (or instruction and answer) without case, punctuation and spacing; a *picture* is all that a
triplet shows, by content. Each source's are numbered in a row, in the order of their first triplet.

A source whose context comes from another one has that one's triplets in place of its own, beside its queries. They
stand in the tables once more, in rows beyond those of TRIPLETS (see `lent_row`), and their texts and pictures have the
first of its numbers: only these are searched.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from mimicit.pipeline.parts import ColumnFile, numbered
from mimicit.pipeline.similarity.options import ComparedText

__all__ = ["Kind", "Says", "Span", "lent_row", "open_tables", "plain_text", "says", "spans", "write_tables"]

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
# A question is closed where at least half of those who ask it give an answer that another gives, too.
_CLOSED: Final = """
INSERT INTO closed
SELECT source, question FROM (
    SELECT source, question, count(*) AS times FROM triplet GROUP BY source, question, answer
) GROUP BY source, question HAVING 2 * sum(CASE WHEN times > 1 THEN times ELSE 0 END) >= sum(times) AND sum(times) > 1
"""


class Span(NamedTuple):
    """The numbers ``first`` to ``end`` (not included) are those of ``source``; its context has the first ``known``."""

    source: int
    first: int
    end: int
    known: int


def lent_row(row: int, source: int, rows: int) -> int:
    """The row in these tables of a triplet that lies in ``row`` of ``rows``, where it is lent to ``source``."""
    return rows * (source + 1) + row


def plain_text(text: str) -> str:
    """The words of ``text``, without case, punctuation and spacing; a text without words is itself."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def write_tables(
    path: Path,
    triplets: ColumnFile,
    compared: Mapping[int, frozenset[Kind]],
    lenders: Mapping[int, int],
    text: ComparedText,
) -> None:
    """Write the tables of TRIPLETS to ``path``; ``compared`` says what, by number of the source.

    ``lenders`` gives the source that context comes from, where it is another. The file appears whole or not at all.
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


class Says(NamedTuple):
    """What a triplet says: hashes of question and answer, and whether the answer is a sentence."""

    question: int
    answer: int
    sentence: bool


def says(instruction: str, answer: str) -> Says:
    """See `Says`."""
    plain = plain_text(answer)
    question = _hash(plain_text(instruction))
    return Says(question, _hash(plain), plain.count(" ") >= _SENTENCE_WORDS - 1)


def _hash(text: str) -> int:
    """64 bits, signed as SQLite has them."""
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def open_tables(path: Path) -> sqlite3.Connection:
    """A connection for reading what `write_tables` wrote; any number of processes may have one."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)


def spans(tables: sqlite3.Connection, kind: Kind) -> list[Span]:
    """The numbers of each source that has any, in order."""
    rows = tables.execute(
        f"SELECT source, min(number), max(number) + 1, sum(known) FROM {kind} GROUP BY source ORDER BY source"
    )
    return [Span(*row) for row in rows]
