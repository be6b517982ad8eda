"""Where the media of a sample came from: of a picture that lay in several places, all of them.

A sample names the first; the others stand in the ``media.parquet`` of its folder, one row for each reference of the
input. One pass over two of its columns, a batch at a time: about a second for 10^6 media.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimicit.records import Media
from mimicit.schema import canonical_json
from mimicit.shards.files import open_regular

__all__ = ["origins_of"]

_TABLE: Final = "media.parquet"  # as mimicit.pipeline.stages.media_table writes it
_BATCH: Final = 10_000


def origins_of(path: Path, media: Sequence[Media]) -> list[tuple[str, ...]]:
    """All origins of each of the ``media`` of a sample in the folder or shard file ``path``, that of the sample first.

    Where the folder has no such table, as that of another program, each has the one that the sample names.
    """
    found: dict[str, dict[str, None]] = {_content(medium): {} for medium in media}
    table = (path if path.is_dir() else path.parent) / _TABLE
    if media and table.is_file():
        _look_up(table, found)
    return [
        (medium.origin, *sorted(found[_content(medium)].keys() - {medium.origin}, key=_first_as_named(medium.origin)))
        for medium in media
    ]


def _first_as_named(origin: str) -> Any:
    return lambda place: (not place.startswith(origin), place)


def _content(medium: Media) -> str:
    """What identifies the stored files and their times, as the table has it."""
    if medium.kind == "image":
        return medium.sha256[0]
    times = [medium.sha256, medium.timestamps_s, medium.duration_s]
    return hashlib.sha256(canonical_json(times)).hexdigest()


def _look_up(table: Path, found: dict[str, dict[str, None]]) -> None:
    wanted = pa.array(list(found), pa.string())
    try:
        with open_regular(table) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=["content", "ref"]):
                for row in batch.filter(pc.is_in(batch.column("content"), wanted)).to_pylist():
                    found[row["content"]][_place(orjson.loads(row["ref"]))] = None
    except (pa.ArrowException, OSError, LookupError, TypeError, orjson.JSONDecodeError):
        return  # mimicit verify says what is wrong with the file


def _place(ref: dict[str, Any]) -> str:
    """The origin of one reference, with the place inside a file where that says more."""
    origin, part = str(ref["origin"]), ref["parts"][0]
    kind, path = part[0], str(part[1])
    if kind in ("parquet", "arrow"):
        group = "row group" if kind == "parquet" else "batch"
        return f"{origin} ({path}, {group} {part[2]}, row {part[3]})"
    return origin if origin.startswith(path) or path.startswith(origin) else f"{origin} ({path})"
