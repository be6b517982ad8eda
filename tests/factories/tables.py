"""Tables as `datasets` writes them: pictures in columns of bytes and paths."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.factories.sources import jpeg, put

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = pa.list_(pa.struct([("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())]))
STRINGS = pa.list_(pa.string())
KINDS = {
    "image": IMAGE,
    "image_1": IMAGE,
    "images": pa.list_(IMAGE),
    "texts": TEXTS,
    "answers": STRINGS,
    "related instructions": STRINGS,
    "conversations": pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())])),
}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: pa.array([row.get(name) for row in rows], KINDS.get(name)) for name in names}
    return pa.table(columns)


def picture(shade: int, path: str | None = None) -> dict[str, Any]:
    return {"bytes": jpeg(shade), "path": path}


def put_parquet(root: Path, path: str, rows: list[dict[str, Any]], group: int = 2) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(rows), place, row_group_size=group)


def put_arrow(root: Path, path: str, rows: list[dict[str, Any]], *, stream: bool = True, batch: int = 2) -> Path:
    data = io.BytesIO()
    content = table(rows)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(data, content.schema) as writer:
        writer.write_table(content, max_chunksize=batch)
    return put(root, path, data.getvalue())
