"""The last stage: index, rejects, card and contact sheet, and the manifest after all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimicit.build.batches import batched
from mimicit.build.card import CARD_NAME, SHEET_NAME, write_card, write_contact_sheet
from mimicit.build.catalog import Catalog
from mimicit.build.config import BuildConfig
from mimicit.build.media_table import MEDIA_NAME, library_versions, write_media_table
from mimicit.build.pack import index_piece
from mimicit.build.scan import InputScan
from mimicit.build.unused import unused_part
from mimicit.errors import BuildError
from mimicit.records import FORMAT
from mimicit.schema import canonical_json, validate
from mimicit.shards.files import publish, sha256_of, write_atomically
from mimicit.shards.index import INDEX_NAME, INDEX_SCHEMA, RELATIONS
from mimicit.shards.manifest import MANIFEST_NAME
from mimicit.sources.scanned import ScannedFiles

__all__ = ["BESIDE_SHARDS", "REJECTS_NAME", "REJECTS_SCHEMA", "publish_folder"]

REJECTS_NAME: Final = "rejects.parquet"
BESIDE_SHARDS: Final = (INDEX_NAME, MEDIA_NAME, REJECTS_NAME, CARD_NAME, SHEET_NAME)
"""The files of a finished folder, without the shards and the manifest."""

REJECTS_SCHEMA: Final = pa.schema(
    [(name, pa.string()) for name in ("scope", "stage", "reason", "source", "locator", "id", "detail")]
)
_BATCH: Final = 10_000


def publish_folder(
    work: Path,
    out: Path,
    config: BuildConfig,
    scan: InputScan,
    scanned: ScannedFiles,
    shards: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Write everything beside the shards, the manifest last; returns the manifest."""
    catalog = Catalog(work, writable=False)
    try:
        sources = _source_table(catalog)
        unused = unused_part(catalog)
        rejects = _write_rejects(catalog, work, out) - unused["unused"] - unused["unused_media"]
        totals = _write_index(work, out, len(shards))
        write_media_table(catalog, scanned, work, out)
    finally:
        catalog.close()
    totals["bytes"] = sum(shard["bytes"] for shard in shards)
    totals["rejects"] = rejects
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "layout": "dedupe" if config.dedupe else "inline",
        "mimicit_version": version("mimicit"),
        "config": config.to_json(),
        "input": {"fingerprint": scan.fingerprint, "files": scan.files, "bytes": scan.bytes, **unused},
        "libraries": library_versions(),
        "shards": list(shards),
        "sources": sources,
        "totals": totals,
        "files": {},
    }
    write_contact_sheet(out)
    write_card(out, manifest)
    manifest["files"] = {name: sha256_of(out / name) for name in BESIDE_SHARDS}
    validate("manifest", manifest)
    write_atomically(out / MANIFEST_NAME, [canonical_json(manifest), b"\n"])
    return manifest


def _source_table(catalog: Catalog) -> list[dict[str, Any]]:
    """Per source: what came in and what became of it; raises if a single record is unaccounted for."""
    table = []
    for number, name, format, why, records in catalog.db.execute(
        "SELECT id, name, format, why, records FROM source ORDER BY id"
    ).fetchall():
        out, merged = catalog.db.execute(
            "SELECT coalesce(sum(is_query), 0), coalesce(sum(NOT is_query), 0) FROM triplet"
            " WHERE source = ? AND (rank IS NOT NULL OR merged_into IS NOT NULL)",
            (number,),
        ).fetchone()
        rejected = dict(
            catalog.db.execute(
                "SELECT reason, count(*) FROM reject WHERE source = ? AND scope = 'record'"
                " GROUP BY reason ORDER BY reason",
                (number,),
            )
        )
        if records != out + merged + sum(rejected.values()):
            raise BuildError(
                f"{name}: {records} records in, {out} out, {merged} merged, {rejected} rejected: unbalanced"
            )
        row = {"name": name, "format": format, "why": why, "in": records, "out": out, "merged": merged}
        ways = dict(catalog.db.execute("SELECT way, count FROM found WHERE source = ?", (number,)))
        notes = {
            kind: {"count": count, "first": first}
            for kind, count, first in catalog.db.execute(
                "SELECT kind, count, first FROM note WHERE source = ? ORDER BY kind", (number,)
            )
        }
        others = {name: value for name, value in (("notes", notes), ("found", ways)) if value}
        table.append({**row, "rejected": rejected, **others})
    return table


def _write_rejects(catalog: Catalog, work: Path, out: Path) -> int:
    count = 0
    with (
        publish(out / REJECTS_NAME, work / "rejects.tmp") as file,
        pq.ParquetWriter(file, REJECTS_SCHEMA, compression="zstd") as writer,
    ):
        rows = catalog.db.execute(
            "SELECT scope, stage, reason, coalesce(source.name, ''), locator, record, detail FROM reject"
            " LEFT JOIN source ON source.id = reject.source ORDER BY reject.source, reject.id"
        )
        for batch in batched(rows, _BATCH):
            columns = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
            writer.write_table(pa.table(columns, schema=REJECTS_SCHEMA))
            count += len(batch)
    return count


def _write_index(work: Path, out: Path, shards: int) -> dict[str, Any]:
    """Join the pieces in the order of the shards; returns the totals of the manifest."""
    sums: Counter[str] = Counter()
    relations: Counter[str] = Counter()
    with (
        publish(out / INDEX_NAME, work / "index.tmp") as file,
        pq.ParquetWriter(file, INDEX_SCHEMA, compression="zstd") as writer,
    ):
        for number in range(shards):
            with pq.ParquetFile(index_piece(work, number)) as piece:
                for batch in piece.iter_batches(batch_size=_BATCH):
                    writer.write_batch(batch)
                    sums["samples"] += batch.num_rows
                    for name in ("triplets", "media", "frames", "characters"):
                        sums[name] += pc.sum(batch.column(name)).as_py()
                    for place, name in enumerate(RELATIONS):
                        relations[name] += pc.sum(batch.column("relations").field(place)).as_py()
    names = ("samples", "triplets", "media", "frames", "characters")
    return {**{name: sums[name] for name in names}, "relations": {n: c for n, c in relations.items() if c}}
