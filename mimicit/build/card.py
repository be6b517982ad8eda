"""What a person sees first of a finished folder: ``README.md`` (a dataset card) and a contact sheet."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import orjson
from PIL import Image, ImageOps

from mimicit.shards.files import write_atomically
from mimicit.shards.index import read_index

__all__ = ["CARD_NAME", "SHEET_NAME", "write_card", "write_contact_sheet"]

CARD_NAME: Final = "README.md"
SHEET_NAME: Final = "contact-sheet.jpg"
_COLUMNS: Final = 8
_ROWS: Final = 3
_CELL: Final = 112  # pixels
_BARS: Final = 8


def write_contact_sheet(folder: Path) -> None:
    """A sheet of the first pictures of samples spread evenly through the shards."""
    index = read_index(folder, ["shard", "media", "member_offsets", "member_sizes"])
    with_media = [row for row, media in enumerate(index.column("media").to_pylist()) if media]
    step = max(1, len(with_media) // (_COLUMNS * _ROWS))
    rows = with_media[::step][: _COLUMNS * _ROWS]
    lines = max(1, -(-len(rows) // _COLUMNS))
    sheet = Image.new("RGB", (_COLUMNS * _CELL, lines * _CELL), "white")
    for place, row in enumerate(rows):
        offset = index.column("member_offsets")[row][1].as_py()
        size = index.column("member_sizes")[row][1].as_py()
        with open(folder / index.column("shard")[row].as_py(), "rb") as shard:
            shard.seek(offset)
            picture = Image.open(io.BytesIO(shard.read(size)))
        cell = ImageOps.contain(picture.convert("RGB"), (_CELL - 4, _CELL - 4))
        left = place % _COLUMNS * _CELL + (_CELL - cell.width) // 2
        top = place // _COLUMNS * _CELL + (_CELL - cell.height) // 2
        sheet.paste(cell, (left, top))
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=85)
    write_atomically(folder / SHEET_NAME, [data.getvalue()])


def write_card(folder: Path, manifest: dict[str, Any]) -> None:
    """The dataset card: licence fields, how to load, counts per source, relations and text lengths."""
    totals = manifest["totals"]
    config = manifest["config"]
    lengths = read_index(folder, ["characters"]).column("characters").to_pylist()
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
    lines += ["", "## Characters of text per sample", "", "```", *_histogram(lengths), "```", ""]
    write_atomically(folder / CARD_NAME, ["\n".join(lines).encode()])


def _histogram(values: list[int]) -> list[str]:
    """Bars over `_BARS` equal classes from 0 to the largest value."""
    width = max(values, default=0) // _BARS + 1
    counts = [0] * _BARS
    for value in values:
        counts[value // width] += 1
    most = max(max(counts), 1)
    return [
        f"{place * width:>8,} to {(place + 1) * width - 1:>8,}  {count:>10,}  {'#' * (40 * count // most)}".rstrip()
        for place, count in enumerate(counts)
    ]
