"""Report the unused input: every file that no source is made of, and every picture and clip that no record shows.

Each is a row of ``rejects.parquet`` of scope ``source``; the manifest counts them and names the first ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa

from mimicit.errors import SourceError
from mimicit.pipeline.joins import insert, joins, rows_of
from mimicit.pipeline.mixture import Selection
from mimicit.pipeline.parts import ColumnFile, batches_of_rows
from mimicit.pipeline.rejects import OF_INPUT, Phase, Rejects, RejectWriter, rejects_path
from mimicit.pipeline.tables import MEDIA_REFERENCES_NAME
from mimicit.progress import Progress
from mimicit.sources.detect import is_data, why_unused
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.files.scanned import ScannedFiles
from mimicit.sources.items import Reject

UNUSED_FILE: Final = "unused_file"
UNUSED_MEDIA: Final = "unused_media"
_SAID: Final = 20
_IN_MANIFEST: Final = 100
_PATHS: Final = pa.schema([("path", pa.large_string())])
_FILES: Final = pa.schema([("place", pa.int64()), ("path", pa.large_string())])
_TABLES: Final = """
CREATE TABLE shown(path VARCHAR);
CREATE TABLE files(place BIGINT, path VARCHAR);
"""
_NOT_SHOWN: Final = "SELECT path FROM files ANTI JOIN shown USING (path) ORDER BY place"


def refuse_unused(root: Root, selection: Selection) -> None:
    """`SourceError` if a file that may hold data is used by no source."""
    data = list(filter(is_data, selection.unused))
    if data:
        more = f" and {len(data) - 1} more" if len(data) > 1 else ""
        why = _why(root, selection, data[0])
        raise SourceError(f"{data[0]}{more}: not used: {why}; with --strict every file with data must be used")


def say_unused(root: Root, selection: Selection, progress: Progress) -> None:
    """Note the first of the files that may hold data and that no source is made of, a line each."""
    data = list(filter(is_data, selection.unused))
    for path in data[:_SAID]:
        progress.note(f"{path}: not used: {_why(root, selection, path)}")
    if len(data) > _SAID:
        progress.note(f"{len(data) - _SAID} more files are not used; mimicit rejects --reason {UNUSED_FILE} lists them")


def write_left_out(work: Path, root: Root, selection: Selection) -> None:
    """Write rejects of files that cannot be read for their names or kinds, and of files that no source is made of."""
    with RejectWriter(rejects_path(work, "scan")) as rejects:
        left_out = [("unusable_file", path, why) for path, why in selection.skipped]
        left_out += [(UNUSED_FILE, path, _why(root, selection, path)) for path in selection.unused]
        for row, (reason, path, why) in enumerate(left_out):
            rejects.reject(OF_INPUT, Phase.SCAN, 0, row, _reject(reason, path, why))


def write_unused_media(work: Path, selection: Selection, scanned: ScannedFiles) -> None:
    """Write rejects of the pictures and clips among the ``scanned`` files that no record shows, maybe millions."""
    with joins(work) as db, RejectWriter(rejects_path(work, "unused")) as rejects:
        db.execute(_TABLES)
        insert(db, "shown", batches_of_rows(_paths_used(work, selection), _PATHS))
        unnamed = frozenset(selection.unnamed_media)
        files = (
            (place, path)
            for place, path in enumerate(scanned.paths())
            if named_kind(path) is not None or path in unnamed
        )
        insert(db, "files", batches_of_rows(files, _FILES))
        for row, (path,) in enumerate(rows_of(db, _NOT_SHOWN)):
            reject = _reject(UNUSED_MEDIA, path, "no record shows this file")
            rejects.reject(OF_INPUT, Phase.UNUSED, 0, row, reject)


def unused_part(rejects: Rejects) -> dict[str, Any]:
    """The fields of the manifest's input on unused files and media: their counts, and the first of the files."""
    count, first = rejects.of_input(UNUSED_FILE, _IN_MANIFEST)
    return {
        "unused": count,
        "unused_files": [{"path": path, "why": why} for path, why in first],
        "unused_media": rejects.of_input(UNUSED_MEDIA, 0)[0],
    }


def _paths_used(work: Path, selection: Selection) -> Iterator[tuple[str]]:
    """The paths of the files of the sources and of all media."""
    for spec in selection.specs:
        yield from ((path,) for path in (*spec.files, *spec.beside))
    for ref in _references(work):
        yield from {(part[1],) for part in ref["parts"]}


def _references(work: Path) -> Iterator[dict[str, Any]]:
    for _, batch in ColumnFile(work / MEDIA_REFERENCES_NAME).batches():
        yield from map(orjson.loads, batch.column("ref").to_pylist())


def _why(root: Root, selection: Selection, path: str) -> str:
    if any(path in spec.files or path in spec.beside for spec in selection.left_out):
        return "the mixture does not list its source"
    return why_unused(root, path)


def _reject(reason: str, path: str, why: str) -> Reject:
    return Reject(scope="source", stage="scan", reason=reason, source="", locator=path, id="", detail=why)
