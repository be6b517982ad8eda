"""Which model made a vector: a hash over the files of its weights and configuration."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["files_fingerprint"]


def files_fingerprint(path: Path) -> str:
    """SHA-256, in hexadecimal, over the names and contents of a file, or of all files beneath a folder."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        with open(file, "rb") as content:
            part = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.name if file == path else file.relative_to(path).as_posix()}\0{part}\n".encode())
    return digest.hexdigest()
