"""``media.parquet``: where every encoded medium came from, so that a later build need not encode it again.

One row per distinct reference of the input whose medium was encoded, in the order of the input.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mimicit.pipeline import tables
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.tables import MEDIA_REFERENCES_NAME
from mimicit.shards.files import publish
from mimicit.sources.files.scanned import ScannedFiles

MEDIA_NAME: Final = "media.parquet"
_LIBRARIES: Final = ("av", "cykooz-resizer", "decord", "decord2", "numpy", "orjson", "pillow", "pillow-heif", "pyarrow")

_BATCH: Final = 10_000
_SCHEMA: Final = pa.schema(
    [
        ("ref", pa.string()),  # the reference as JSON: kind, places of its parts, origin, timestamps
        ("input", pa.string()),  # SHA-256 over the contents of the files that it points into
        ("content", pa.string()),  # identifies the stored files and their times
        ("media", pa.binary()),  # the stored medium as JSON
        ("sizes", pa.list_(pa.int64())),  # bytes of the stored files
        ("width", pa.int32()),  # of the original, in pixels
        ("height", pa.int32()),
        ("bytes", pa.int64()),  # of the original
        ("fingerprint", pa.binary()),  # of how the picture looks, if the build compared pictures
    ]
)


def library_versions() -> dict[str, str]:
    """The versions of the libraries that can change a byte of a shard, without those that are not installed."""
    versions = {name: _version(name) for name in _LIBRARIES}
    return {name: version for name, version in versions.items() if version is not None}


@functools.cache  # reading it takes as long as a stage of a small build
def own_version() -> str:
    """The version of this package."""
    return version("mimicit")


@functools.cache  # each takes 2 ms to read, and does not change while a process runs
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def input_digest(ref: str, scanned: ScannedFiles) -> str | None:
    """One SHA-256 over the contents of the files that the reference ``ref`` (JSON) points into.

    A part is a list that starts with its kind and the path of its file. ``None`` if a file was not found.
    """
    paths = dict.fromkeys(part[1] for part in orjson.loads(ref)["parts"])
    return scanned.digest(list(paths))


def write_media_table(scanned: ScannedFiles, work: Path, out: Path) -> None:
    """Write `MEDIA_NAME` into ``out``."""
    with (
        publish(out / MEDIA_NAME, work / "media.tmp") as file,
        pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer,
    ):
        for table in _tables(scanned, work):
            writer.write_table(table)


def _tables(scanned: ScannedFiles, work: Path) -> Iterator[pa.Table]:
    references, media = ColumnFile(work / MEDIA_REFERENCES_NAME), ColumnFile(work / tables.MEDIA_NAME)
    for start in range(0, media.rows, _BATCH):
        rows = media.table(_SCHEMA.names[2:]).slice(start, _BATCH)
        rows = rows.add_column(0, "ref", references.table(["ref"]).slice(start, _BATCH).column(0))
        rows = rows.filter(rows.column("content").is_valid())
        digests = [input_digest(ref, scanned) for ref in rows.column("ref").to_numpy().tolist()]
        yield rows.add_column(1, "input", pa.array(digests, pa.string())).cast(_SCHEMA)
        references.give_back()
        media.give_back()
