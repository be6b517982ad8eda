"""What a person sees first of a finished folder: ``README.md`` (a dataset card) and a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mimicit.shards.files import write_atomically
from mimicit.shards.index import index_batches

__all__ = ["CARD_NAME", "SHEET_NAME", "write_card", "write_contact_sheet"]

CARD_NAME: Final = "README.md"
SHEET_NAME: Final = "contact-sheet.jpg"
_COLUMNS: Final = 8
_ROWS: Final = 3
_CELL: Final = 112  # pixels
_BARS: Final = 8


def write_contact_sheet(folder: Path) -> None:
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
    write_atomically(folder / SHEET_NAME, [data.getvalue()])


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


def write_card(folder: Path, manifest: dict[str, Any]) -> None:
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
    write_atomically(folder / CARD_NAME, ["\n".join(lines).encode()])


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
