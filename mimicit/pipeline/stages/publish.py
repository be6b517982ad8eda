"""The last stage: index, rejects, card and contact sheet, and the manifest after all of them.

The card is ``README.md``; it and the sheet are what a person sees first of a finished folder.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mimicit.errors import BuildError
from mimicit.pipeline.config import BuildConfig
from mimicit.pipeline.joins import joins
from mimicit.pipeline.parts import ColumnFile, batched
from mimicit.pipeline.rejects import OF_INPUT, Rejects
from mimicit.pipeline.stages.importing import import_parts, part_rejects
from mimicit.pipeline.stages.media_table import MEDIA_NAME, library_versions, own_version, write_media_table
from mimicit.pipeline.stages.pack import index_piece
from mimicit.pipeline.stages.scan import InputScan
from mimicit.pipeline.stages.unused import unused_part
from mimicit.pipeline.tables import MERGED_NAME, TRIPLETS_NAME
from mimicit.records import FORMAT
from mimicit.schema import canonical_json, validate
from mimicit.shards.files import publish, sha256_of, write_atomically
from mimicit.shards.index import INDEX_NAME, index_batches, index_schema
from mimicit.shards.manifest import MANIFEST_NAME
from mimicit.sources.files.scanned import ScannedFiles
from mimicit.sources.format import SourceSpec

REJECTS_NAME: Final = "rejects.parquet"

_CARD_NAME: Final = "README.md"
_SHEET_NAME: Final = "contact-sheet.jpg"

BESIDE_SHARDS: Final = (INDEX_NAME, MEDIA_NAME, REJECTS_NAME, _CARD_NAME, _SHEET_NAME)
"""The files of a finished folder other than the shards and the manifest."""

REJECTS_SCHEMA: Final = pa.schema(
    [(name, pa.string()) for name in ("scope", "stage", "reason", "source", "locator", "id", "detail")]
)
_BATCH: Final = 10_000

_COLUMNS: Final = 8
_ROWS: Final = 3
_CELL: Final = 112  # pixels
_BARS: Final = 8


def publish_folder(
    work: Path,
    out: Path,
    config: BuildConfig,
    specs: Sequence[SourceSpec],
    scan: InputScan,
    scanned: ScannedFiles,
    shards: Sequence[dict[str, Any]],
    *,
    origin: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Write all files other than the shards, the manifest last; returns the manifest.

    ``specs`` are the sources in the order of their numbers; ``origin`` is where the input came from, for the manifest.
    """
    with joins(work) as db:
        rejected = Rejects(db, work, part_rejects(work))
        unused = unused_part(rejected)
        sources = list(_source_table(rejected, work, specs))
        rejects = _write_rejects(rejected, specs, work, out) - unused["unused"] - unused["unused_media"]
    totals = _write_index(work, out, len(shards))
    write_media_table(scanned, work, out)
    totals["bytes"] = sum(shard["bytes"] for shard in shards)
    totals["rejects"] = rejects
    came = {} if origin is None else {"origin": dict(origin)}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "layout": "dedupe" if config.dedupe else "inline",
        "mimicit_version": own_version(),
        "config": config.to_json(),
        "input": {"fingerprint": scan.fingerprint, "files": scan.files, "bytes": scan.bytes, **unused, **came},
        "libraries": library_versions(),
        "shards": list(shards),
        "sources": sources,
        "totals": totals,
        "files": {},
    }
    _write_contact_sheet(out)
    _write_card(out, manifest)
    manifest["files"] = {name: sha256_of(out / name) for name in BESIDE_SHARDS}
    validate("manifest", manifest)
    write_atomically(out / MANIFEST_NAME, [canonical_json(manifest), b"\n"])
    return manifest


def _source_table(rejects: Rejects, work: Path, specs: Sequence[SourceSpec]) -> Iterator[dict[str, Any]]:
    """Per source: what came in and what became of it; `BuildError` if a single record is unaccounted for."""
    parts = import_parts(work)
    queries, others = _counts(work, len(specs))
    rejected: list[dict[str, int]] = [{} for _ in specs]
    for number, reason, count in rejects.records():
        rejected[number][reason] = count
    for number, spec in enumerate(specs):
        summaries = [part.summary for part in parts if part.source == number]
        records = sum(summary.records for summary in summaries)
        counts = {"in": records, "out": queries[number], "merged": others[number]}
        if records != queries[number] + others[number] + sum(rejected[number].values()):
            raise BuildError(
                f"{spec.name}: {records} records in, {queries[number]} out, {others[number]} merged,"
                f" {rejected[number]} rejected: unbalanced"
            )
        found: Counter[str] = Counter()
        notes: dict[str, dict[str, Any]] = {}
        for summary in summaries:
            found.update(summary.found)
            for kind, (count, first) in summary.notes.items():
                note = notes.setdefault(kind, {"count": 0, "first": first})
                note["count"] += count
        beside = {"notes": dict(sorted(notes.items())), "found": dict(sorted(found.items()))}
        row = {"name": spec.name, "format": spec.format, "why": spec.why, **counts}
        yield {**row, "rejected": rejected[number], **{name: value for name, value in beside.items() if value}}


def _counts(work: Path, sources: int) -> tuple[list[int], list[int]]:
    """How many queries each source has, and how many other usable records."""
    queries, others = np.zeros(sources, int), np.zeros(sources, int)
    for _, batch in ColumnFile(work / TRIPLETS_NAME).batches():
        numbers, is_query = batch.column("source").to_numpy(), np.asarray(batch.column("is_query"))
        queries += np.bincount(numbers[is_query], minlength=sources)
        others += np.bincount(numbers[~is_query], minlength=sources)
    for _, batch in ColumnFile(work / MERGED_NAME).batches():
        others += np.bincount(batch.column("source").to_numpy(), minlength=sources)
    return queries.tolist(), others.tolist()


def _write_rejects(rejects: Rejects, specs: Sequence[SourceSpec], work: Path, out: Path) -> int:
    count = 0
    with (
        publish(out / REJECTS_NAME, work / "rejects.tmp") as file,
        pq.ParquetWriter(file, REJECTS_SCHEMA, compression="zstd") as writer,
    ):
        for batch in batched(rejects.in_order(), _BATCH):
            number, *others = zip(*batch, strict=True)
            names = ["" if source == OF_INPUT else specs[source].name for source in number]
            columns = [*others[:3], names, *others[3:]]
            writer.write_table(pa.table([pa.array(column, pa.string()) for column in columns], schema=REJECTS_SCHEMA))
            count += len(batch)
    return count


def _write_index(work: Path, out: Path, shards: int) -> dict[str, Any]:
    """Join the pieces in the order of the shards; returns the totals of the manifest."""
    sums: Counter[str] = Counter()
    relations: Counter[str] = Counter()
    schema = index_schema(pq.read_schema(index_piece(work, 0)).field("relations").type)
    with (
        publish(out / INDEX_NAME, work / "index.tmp") as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for number in range(shards):
            with pq.ParquetFile(index_piece(work, number)) as piece:
                for batch in piece.iter_batches(batch_size=_BATCH):
                    writer.write_batch(batch)
                    sums["samples"] += batch.num_rows
                    for name in ("triplets", "media", "frames", "characters"):
                        sums[name] += pc.sum(batch.column(name)).as_py()
                    counts = batch.column("relations")
                    for place, field in enumerate(counts.type):
                        relations[field.name] += pc.sum(counts.field(place)).as_py()
    names = ("samples", "triplets", "media", "frames", "characters")
    return {**{name: sums[name] for name in names}, "relations": {n: c for n, c in relations.items() if c}}


def _write_contact_sheet(folder: Path) -> None:
    """A sheet of the first pictures of samples spread evenly through the shards."""
    rows = _spread_pictures(folder, _COLUMNS * _ROWS)
    lines = max(1, -(-len(rows) // _COLUMNS))
    sheet = Image.new("RGB", (_COLUMNS * _CELL, lines * _CELL), "white")
    for place, (name, offset, size) in enumerate(rows):
        with open(folder / name, "rb") as shard:
            shard.seek(offset)
            picture = Image.open(io.BytesIO(shard.read(size)))
        cell = ImageOps.contain(picture.convert("RGB"), (_CELL - 4, _CELL - 4))
        left = place % _COLUMNS * _CELL + (_CELL - cell.width) // 2
        top = place // _COLUMNS * _CELL + (_CELL - cell.height) // 2
        sheet.paste(cell, (left, top))
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=85)
    write_atomically(folder / _SHEET_NAME, [data.getvalue()])


def _spread_pictures(folder: Path, most: int) -> list[tuple[str, int, int]]:
    """(shard, offset, size) of the first picture of up to ``most`` samples, spread evenly over those that have one."""
    total = sum(pc.sum(pc.greater(batch.column("media"), 0)).as_py() for batch in index_batches(folder, ["media"]))
    step = max(1, total // most)
    places: list[tuple[str, int, int]] = []
    seen = 0
    for batch in index_batches(folder, ["shard", "media", "member_offsets", "member_sizes"]):
        shown = np.flatnonzero(batch.column("media").to_numpy())
        for row in shown[(np.arange(len(shown)) + seen) % step == 0].tolist():
            members = (batch.column(name)[row][1].as_py() for name in ("member_offsets", "member_sizes"))
            places.append((batch.column("shard")[row].as_py(), *members))
        seen += len(shown)
    return places[:most]


def _write_card(folder: Path, manifest: dict[str, Any]) -> None:
    """The dataset card: licence fields, how to load, counts per source, relations and text lengths."""
    totals = manifest["totals"]
    config = manifest["config"]
    lines = [
        "---",
        f"license: {orjson.dumps(config['license']).decode()}",
        "task_categories: [visual-question-answering, image-to-text]",
        "tags: [webdataset, in-context, mimicit]",
        "---",
        "",
        f"# {totals['samples']:,} in-context samples",
        "",
        f"Format `{manifest['format']}`: WebDataset shards of query triplets with their context."
        f" {totals['triplets']:,} triplets, {totals['media']:,} media in {totals['frames']:,} files,"
        f" {totals['bytes']:,} bytes in {len(manifest['shards'])} shard(s).",
        "",
        "![contact sheet](contact-sheet.jpg)",
        "",
        "```python",
        "import mimicit",
        "",
        'samples = mimicit.load("path/to/this/folder")',
        "print(mimicit.render(samples[0]))",
        "```",
        "",
        "## Sources",
        "",
        "| source | format | in | out | merged | rejected |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {source['name']} | {source['format']} | {source['in']:,} | {source['out']:,} | {source['merged']:,}"
        f" | {sum(source['rejected'].values()):,} |"
        for source in manifest["sources"]
    ]
    lines += ["", "Merged: context only, or the same as another record."]
    lines += ["", "Each source keeps its own licence; `license` above is what the builder of this folder stated.", ""]
    lines += ["## Context", "", "| relation | triplets |", "| --- | ---: |"]
    lines += [f"| {name} | {count:,} |" for name, count in totals["relations"].items()] or ["| none | 0 |"]
    lines += ["", "## Characters of text per sample", "", "```", *_histogram(folder), "```", ""]
    write_atomically(folder / _CARD_NAME, ["\n".join(lines).encode()])


def _histogram(folder: Path) -> list[str]:
    """Bars over `_BARS` equal classes of the characters per sample, from 0 to the largest value."""

    def lengths() -> Iterator[NDArray[np.int64]]:
        return (batch.column("characters").to_numpy() for batch in index_batches(folder, ["characters"]))

    width = max((int(values.max()) for values in lengths()), default=0) // _BARS + 1
    counts = np.zeros(_BARS, np.int64)
    for values in lengths():
        counts += np.bincount(values // width, minlength=_BARS)
    most = max(int(counts.max()), 1)
    return [
        f"{place * width:>8,} to {(place + 1) * width - 1:>8,}  {count:>10,}  {'#' * (40 * count // most)}".rstrip()
        for place, count in enumerate(counts.tolist())
    ]
