"""The report of a finished build: one row per source, what became of the records, what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from mimicit.pipeline.run import BuildResult
from mimicit.pipeline.stages.unused import UNUSED_FILE, UNUSED_MEDIA
from mimicit.sources.files.search import Way

_HEADER = ("source", "format", "in", "out", "merged", "rejected")

_FOUND: Final[dict[Way, str]] = {
    "media_root": "as --media-root maps them",
    "beside": "from the folder of their records",
    "src": "from --src",
    "absolute": "by absolute paths inside --src",
    "usual_folder": "in the usual folders",
    "suffix": "by the end of their paths",
    "name": "by their name alone",
    "extension": "under another extension",
}
_NOTES: Final[dict[str, str]] = {
    "held_out": "samples whose field split says that they are for validation or test, not for training",
    "nan_as_null": "records with NaN or Infinity in a free field, which became null",
    "shown_once": "records with the same placeholders in every turn, whose media are shown once",
    "tokens_as_words": "records with <image>, <answer> or <|endofchunk|> among their words, which stay words",
    "shown_first": "records without a placeholder, whose media are shown before the first turn",
}


def build_report(result: BuildResult, out: Path) -> str:
    """The report as text."""
    manifest = result.manifest
    totals = manifest["totals"]
    if result.was_finished:
        return f"{out}: already finished from this input with these options; nothing to do"
    rows = [_HEADER, *(_row(source) for source in manifest["sources"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(_cell(row, column, widths) for column in range(len(_HEADER))).rstrip() for row in rows]
    for source in manifest["sources"]:
        for reason, count in sorted(source["rejected"].items()):
            lines.append(f"  {source['name']}: {count:,} rejected as {reason}")
        if found := source.get("found", {}):
            counts = ", ".join(f"{found[way]:,} {words}" for way, words in _FOUND.items() if way in found)
            lines.append(f"  {source['name']}: media found: {counts}")
        for kind, note in sorted(source.get("notes", {}).items()):
            lines.append(f"  {source['name']}: {note['count']:,} {_NOTES.get(kind, kind)}; first {note['first']}")
    lines.append(
        f"{totals['samples']:,} samples, {totals['triplets']:,} triplets, {totals['media']:,} media in"
        f" {len(manifest['shards'])} shard(s), {totals['bytes']:,} bytes: {out}"
    )
    if result.retried is not None:
        lines.append(f"{result.retried.fixed:,} of {result.retried.rejected:,} former rejects are now in")
    if totals["rejects"]:
        lines.append(f"{totals['rejects']:,} rejects; for the reasons: mimicit rejects {out}")
    given = manifest["input"]
    for count, what, reason in (
        (given["unused"], "file(s) were not used by any source", UNUSED_FILE),
        (given["unused_media"], "picture(s) and clip(s) are shown by no record", UNUSED_MEDIA),
    ):
        if count:
            lines.append(f"{count:,} {what}; for their names: mimicit rejects {out} --reason {reason}")
    lines.append(f"next: mimicit inspect {out}")
    return "\n".join(lines)


def _row(source: dict[str, Any]) -> tuple[str, ...]:
    counts = (source["in"], source["out"], source["merged"], sum(source["rejected"].values()))
    return (source["name"], source["format"], *(f"{count:,}" for count in counts))


def _cell(row: tuple[str, ...], column: int, widths: list[int]) -> str:
    return row[column].ljust(widths[column]) if column < 2 else row[column].rjust(widths[column])
