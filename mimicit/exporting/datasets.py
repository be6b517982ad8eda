"""``datasets``: parquet files that ``datasets.load_dataset`` reads, one row per sample, pictures inside.

``load_dataset("parquet", data_dir="folder/data")`` shows ``images`` as pictures, and ``texts`` as the list of
``{user, assistant}`` that the Cauldron made usual: the context first, the query last. The other columns hold the rest
of a sample: ``ids``, ``relations`` and ``scores`` have an entry for each text, ``shows`` is how many media each
text shows right before it, and ``media`` tells pictures and clips apart (a clip takes ``frames`` consecutive
``images``). ``meta`` is JSON text. Row groups hold some MiB, so that a reader needs little memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mimicit.exporting.base import Written, stored_files
from mimicit.records import Media, Sample
from mimicit.sample_table import datasets_schema, picture_type
from mimicit.schema import canonical_json

_ROW_GROUP_BYTES: Final = 8 << 20
_ROW_GROUP_ROWS: Final = 256
_FILE_BYTES: Final = 512 << 20

SCHEMA: Final = datasets_schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "images": pa.list_(picture_type()),
        "texts": pa.list_(pa.struct([("user", pa.string()), ("assistant", pa.string())])),
        "ids": pa.list_(pa.string()),
        "relations": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()),
        "shows": pa.list_(pa.int32()),
        "media": pa.list_(
            pa.struct(
                [
                    ("kind", pa.string()),
                    ("frames", pa.int32()),
                    ("width", pa.int64()),
                    ("height", pa.int64()),
                    ("origin", pa.string()),
                    ("timestamps_s", pa.list_(pa.float64())),
                    ("duration_s", pa.float64()),
                ]
            )
        ),
        "meta": pa.string(),
    }
)


def export_datasets(samples: Iterable[Sample], folder: Path, scratch: Path) -> Written:
    """See `mimicit.exporting.base.Exporter`."""
    written = Written()
    writer = _Parts(folder / "data")
    for sample in samples:
        row = _row(sample)
        writer.add(row, size=sum(len(image["bytes"]) for image in row["images"]))
        written.records += 1
        written.media += len(row["images"])
    writer.finish()
    return written


def _row(sample: Sample) -> dict[str, Any]:
    return {
        "id": sample.id,
        "source": sample.source,
        "images": [{"bytes": data, "path": name} for medium in sample.media for name, data in stored_files(medium)],
        "texts": [{"user": triplet.instruction, "assistant": triplet.answer} for triplet in sample.triplets],
        "ids": [triplet.id for triplet in sample.triplets],
        "relations": [triplet.relation for triplet in sample.triplets],
        "scores": [triplet.score for triplet in sample.triplets],
        "shows": [len(triplet.media) for triplet in sample.triplets],
        "media": [_media(medium) for medium in sample.media],
        "meta": canonical_json(dict(sample.meta)).decode(),
    }


def _media(media: Media) -> dict[str, Any]:
    return {
        "kind": media.kind,
        "frames": len(media.files),
        "width": media.width,
        "height": media.height,
        "origin": media.origin,
        "timestamps_s": media.timestamps_s,
        "duration_s": media.duration_s,
    }


class _Parts:
    """Parquet files of bounded size in ``folder``, named as `datasets` names the parts of a split."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._parts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._part_bytes = 0
        self._rows: list[dict[str, Any]] = []
        self._rows_bytes = 0

    def add(self, row: dict[str, Any], *, size: int) -> None:
        """Add one row whose pictures take ``size`` bytes."""
        self._rows.append(row)
        self._rows_bytes += size
        if self._rows_bytes >= _ROW_GROUP_BYTES or len(self._rows) >= _ROW_GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        """Write what is left; the names say how many parts there are, which is known only now."""
        self._flush()
        self._close()
        for path in self._parts:
            path.rename(path.with_name(f"{path.stem}-of-{len(self._parts):05d}.parquet"))

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._parts.append(self._folder / f"train-{len(self._parts):05d}.parquet")
            # Bytes of pictures neither repeat nor shrink: no dictionary.
            self._writer = pq.ParquetWriter(self._parts[-1], SCHEMA, use_dictionary=False)
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA), row_group_size=len(self._rows))
        self._part_bytes += self._rows_bytes
        self._rows, self._rows_bytes = [], 0
        if self._part_bytes >= _FILE_BYTES:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._part_bytes = 0
