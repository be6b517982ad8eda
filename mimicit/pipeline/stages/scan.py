"""The fingerprint of the input: names and sizes of all files under ``--src``, and the contents of what can be used.

Two kinds of files can be used and are read whole: those that sources are made of, and pictures and clips up to a size
limit, recognized by their first bytes. Of any other file only the first MiB is read: the rest cannot affect the build.

The result is kept in a SQLite file in the output folder, so memory does not grow with the number of files; each file
is compared with it when it is read (see `mimicit.sources.files.scanned`), and a later build can tell which inputs are
still the same (see `mimicit.pipeline.previous`).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mimicit.errors import BuildError, RejectedError
from mimicit.media.sniff import HEAD_BYTES, kind_of
from mimicit.pipeline.engines.local import Engine
from mimicit.progress import Progress
from mimicit.sources.files.reading import MAX_FILE_BYTES
from mimicit.sources.files.root import Root
from mimicit.sources.files.scanned import APPEARED, GONE, SCANNED_TABLE, FileState, changed, compare

_BATCH_BYTES: Final = 64 * 1024**2
_BATCH_FILES: Final = 4096
_READ_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 1 << 20
"""What is read of a file that nothing uses: far more than it takes to recognize it, and all of a small one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputScan:
    """What lies under ``--src``: number of files, bytes, and a SHA-256 over names, sizes and contents."""

    fingerprint: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Files to hash: (path, whether a source is made of it, its state when it was last opened, if it was).

    ``first`` is the place of the first in the walk.
    """

    root: Root
    first: int
    files: tuple[tuple[str, bool, FileState | None], ...]
    keep_going: bool


def scan_input(
    root: Root,
    table: Path,
    noted: dict[str, FileState | None],
    sources: Collection[str],
    engine: Engine,
    progress: Progress,
    *,
    keep_going: bool = False,
) -> InputScan:
    """Hash what can be used of the input, in parallel, into the new file ``table``, which `ScannedFiles` reads.

    ``sources`` are the paths of the files that sources are made of, and ``noted`` is what the build has found of the
    input so far, by which it has chosen them (see `Root.noting`); it is used up. The result does not depend on dates,
    links or the order of folders. `BuildError` if a file cannot be read, is written to meanwhile, or is not as it was
    noted. With ``keep_going``, unreadable
    files are treated as missing: the records that need them become rejects.
    """
    table.unlink(missing_ok=True)
    db = sqlite3.connect(table, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = OFF")  # every build makes it anew
        db.execute("PRAGMA synchronous = OFF")
        db.execute(SCANNED_TABLE)
        db.execute("BEGIN")
        for batch, rows in engine.run(
            _hash_files, _batches(root, noted, sources, keep_going), label="scan", progress=progress
        ):
            numbered = ((batch.first + place, *row) for place, row in enumerate(rows))
            db.executemany("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?)", numbered)
        db.execute("COMMIT")
        total = hashlib.sha256()
        files = size = 0
        for path, length, digest in db.execute("SELECT path, size, sha256 FROM file ORDER BY id"):
            total.update(f"{path}\0{length}\0{digest}\n".encode())
            files += 1
            size += length
    finally:
        db.close()
    return InputScan(fingerprint=total.hexdigest(), files=files, bytes=size)


def _batches(
    root: Root, noted: dict[str, FileState | None], sources: Collection[str], keep_going: bool
) -> Iterator[_Batch]:
    files: list[tuple[str, bool, FileState | None]] = []
    first = waiting = 0
    for path, size in root.walk():
        if path not in noted:
            raise changed(path, APPEARED)
        is_source = path in sources
        files.append((path, is_source, noted.pop(path)))
        waiting += size if is_source else min(size, MAX_FILE_BYTES)
        if waiting >= _BATCH_BYTES or len(files) >= _BATCH_FILES:
            yield _Batch(root=root, first=first, files=tuple(files), keep_going=keep_going)
            first, waiting, files = first + len(files), 0, []
    if files:
        yield _Batch(root=root, first=first, files=tuple(files), keep_going=keep_going)
    for path in noted:
        raise changed(path, GONE)


def _hash_files(batch: _Batch) -> list[tuple[Any, ...]]:
    """The row of each file in the table, without its number; runs in a worker."""
    rows: list[tuple[Any, ...]] = []
    for path, is_source, noted in batch.files:
        try:
            with batch.root.open(path) as file:
                before = FileState.of(file.fileno())
                head = file.read(_HEAD_BYTES)
                is_whole = is_source or before.size <= len(head) or _can_be_shown(head, before.size)
                digest = hashlib.sha256(head)
                while is_whole and (data := file.read(_READ_BYTES)):
                    digest.update(data)
                after = FileState.of(file.fileno())
        except (RejectedError, OSError) as error:
            if batch.keep_going and noted is None:
                continue
            raise BuildError(
                f"{path}: cannot be read ({error}); fix or remove it, or leave it out with --keep-going"
            ) from None
        if after != before:
            raise BuildError(f"{path}: is being written to; run the same command again when that has ended")
        if noted is not None:
            compare(path, before, noted)
        rows.append((path, *before, digest.hexdigest(), is_whole))
    return rows


def _can_be_shown(head: bytes, size: int) -> bool:
    return size <= MAX_FILE_BYTES and kind_of(head[:HEAD_BYTES]) is not None
