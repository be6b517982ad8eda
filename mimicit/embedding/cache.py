"""Vectors that a model has computed before, by the content of what it saw; shared by any number of builds.

One SQLite file per model in a folder of the user's choice, named by the model's fingerprint: other weights are another
file. A batch is one transaction, so a killed build loses at most the batch it was at, and builds that run side by side
wait for each other. A row holds the SHA-256 of a text or a stored picture, and its int8 vector.
A fingerprint is a hash over the files of a model's weights and configuration.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from mimicit.embedding.vectors import Int8
from mimicit.errors import BuildError

__all__ = ["VectorCache", "files_fingerprint"]


_WAIT_S: Final = 60.0


class VectorCache:
    """The vectors of the model with ``fingerprint`` in ``folder``, which is made where it is missing.

    Raises `BuildError` for a file there that is no such cache.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{hashlib.sha256(fingerprint.encode()).hexdigest()[:32]}.sqlite"
        self._db = sqlite3.connect(self._path, isolation_level=None, timeout=_WAIT_S)
        try:
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS vector(content BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise BuildError(f"{self._path}: no cache of vectors ({error}); remove it") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def vectors(self, contents: Sequence[bytes], compute: Callable[[list[int]], Int8]) -> Int8:
        """int8[n, d] for the n ``contents`` (digests): as stored, or from ``compute`` (their places), then stored."""
        known = [self._known(content) for content in contents]
        missing = [place for place, vector in enumerate(known) if vector is None]
        if missing:
            computed = compute(missing)
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR IGNORE INTO vector VALUES (?, ?)",
                [(contents[place], vector.tobytes()) for place, vector in zip(missing, computed, strict=True)],
            )
            self._db.execute("COMMIT")
            for place, vector in zip(missing, computed, strict=True):
                known[place] = vector
        return np.stack([vector for vector in known if vector is not None])

    def _known(self, content: bytes) -> Int8 | None:
        row = self._db.execute("SELECT vector FROM vector WHERE content = ?", (content,)).fetchone()
        return None if row is None else np.frombuffer(row[0], np.int8)


def files_fingerprint(path: Path) -> str:
    """SHA-256, in hexadecimal, over the names and contents of a file, or of all files beneath a folder."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        with open(file, "rb") as content:
            part = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.name if file == path else file.relative_to(path).as_posix()}\0{part}\n".encode())
    return digest.hexdigest()
