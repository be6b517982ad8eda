"""The fingerprint of the input: names, sizes and contents of all files under ``--src``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from mimicit.build.engine import Engine
from mimicit.build.progress import Progress
from mimicit.errors import BuildError, RejectedError
from mimicit.sources.root import Root

__all__ = ["InputScan", "scan_input"]

_BATCH_BYTES = 64 * 1024**2
_BLOCK_BYTES = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class InputScan:
    """What lies under ``--src``: number of files, bytes, and a SHA-256 over names and contents."""

    fingerprint: str
    files: int
    bytes: int


def scan_input(root: Root, engine: Engine, progress: Progress) -> InputScan:
    """Hash every file once, in parallel; the result does not depend on dates, links or the order of folders."""
    batches = list(_batches(root))
    total = hashlib.sha256()
    files = size = 0
    results = engine.run(_hash_files, [(root, batch) for batch in batches], label="scan", progress=progress)
    ordered: dict[int, list[tuple[str, int, str]]] = dict(results)
    for number in range(len(batches)):
        for path, length, digest in ordered[number]:
            total.update(f"{path}\0{length}\0{digest}\n".encode("utf-8", "surrogateescape"))
            files += 1
            size += length
    return InputScan(fingerprint=total.hexdigest(), files=files, bytes=size)


def _batches(root: Root) -> Iterator[list[str]]:
    batch: list[str] = []
    waiting = 0
    for path, size in root.walk():
        batch.append(path)
        waiting += size
        if waiting >= _BATCH_BYTES or len(batch) >= 4096:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def _hash_files(task: tuple[Root, list[str]]) -> list[tuple[str, int, str]]:
    root, paths = task
    rows: list[tuple[str, int, str]] = []
    for path in paths:
        try:
            with root.open(path) as file:
                digest = hashlib.sha256()
                size = 0
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
                    size += len(block)
                rows.append((path, size, digest.hexdigest()))
        except (RejectedError, OSError) as error:
            raise BuildError(f"{path}: cannot be read ({error}); mend or remove it") from None
    return rows
