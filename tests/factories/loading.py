"""Folders of shards in the sizes that loading must cope with, and one too large to exist."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mimicit.pipeline import BuildConfig, build_shards
from mimicit.records import Sample, Triplet
from tests.factories import raw as make
from tests.factories.engines import InProcess


def small_shards(folder: Path, samples: int, shard_bytes: int = 1 << 30, name: str = "own") -> Path:
    """A real folder with ``samples`` samples whose answers differ in length, each with two context triplets."""
    source = folder / "raw" / name
    source.mkdir(parents=True)
    pictures = min(samples, 6)
    for number in range(pictures):
        (source / f"{number}.jpg").write_bytes(make.picture(number))
    make.write_manifest(source, (_row(name, number, pictures) for number in range(samples)))
    out = folder / "shards"
    build_shards(folder / "raw", out, BuildConfig(shard_bytes=shard_bytes), engine=InProcess())
    return out


def _row(name: str, number: int, pictures: int) -> dict[str, Any]:
    words = 1 + (number * 7) % 23
    return {
        "id": f"{name}-{number}",
        "media": f"{number % pictures}.jpg",
        "instruction": f"What is thing {number}?",
        "answer": f"{name} {number} " + "word " * words,
    }


class VirtualStore:
    """Stands in for the `Store` of a folder of ``count`` text samples, which are made up when they are read."""

    def __init__(self, count: int, name: str = "virtual", columns: dict[str, Any] | None = None) -> None:
        self.count = count
        self.name = name
        self.folder = Path(name)
        self.manifest: dict[str, Any] = {}
        self._columns = columns or {}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.name} {self.count}".encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def columns(self, names: Sequence[str]) -> pa.Table:
        return pa.table({name: self._columns[name] for name in names if name in self._columns})

    def key(self, row: int) -> str:
        return f"{self.name}-{row}"

    def shard_name(self, row: int) -> str:
        return self.name

    def row_of(self, key: str) -> int:
        return int(key.rpartition("-")[2])

    def read(self, row: int) -> Sample:
        assert 0 <= row < self.count
        query = Triplet(id=str(row), role="query", media=(), instruction="", answer="yes")
        return Sample(id=str(row), source=self.name, media=(), triplets=(query,))

    def close(self) -> None:
        pass
