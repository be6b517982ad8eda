"""What of the input nobody uses: every file that no source is made of, and every picture and clip that no record shows.

Each is a row of ``rejects.parquet`` of scope ``source``; the manifest counts them and names the first ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mimicit.build.catalog import Catalog
from mimicit.build.progress import Progress
from mimicit.build.selection import Selection
from mimicit.errors import SourceError
from mimicit.sources.base import Reject
from mimicit.sources.media_names import named_kind
from mimicit.sources.root import Root
from mimicit.sources.scanned import ScannedFiles
from mimicit.sources.unclaimed import is_data, why_unused

__all__ = [
    "UNUSED_FILE",
    "UNUSED_MEDIA",
    "note_left_out",
    "note_unused_media",
    "refuse_unused",
    "say_unused",
    "unused_part",
]

UNUSED_FILE: Final = "unused_file"
UNUSED_MEDIA: Final = "unused_media"
_SAID: Final = 20
_IN_MANIFEST: Final = 100
_STAGE: Final = "unused media"


def refuse_unused(root: Root, selection: Selection) -> None:
    """`SourceError` where a file that may hold data is used by no source."""
    data = list(filter(is_data, selection.unused))
    if data:
        more = f" and {len(data) - 1} more" if len(data) > 1 else ""
        why = _why(root, selection, data[0])
        raise SourceError(f"{data[0]}{more}: not used: {why}; with --strict every file with data must be used")


def say_unused(root: Root, selection: Selection, progress: Progress) -> None:
    """A line for each of the first files that may hold data and that no source is made of."""
    data = list(filter(is_data, selection.unused))
    for path in data[:_SAID]:
        progress.note(f"{path}: not used: {_why(root, selection, path)}")
    if len(data) > _SAID:
        progress.note(f"{len(data) - _SAID} more files are not used; mimicit rejects --reason {UNUSED_FILE} lists them")


def note_left_out(catalog: Catalog, root: Root, selection: Selection) -> None:
    """Enter files that cannot be read by their names or kinds, and files that no source is made of, as rejects."""
    for path, why in selection.skipped:
        _add(catalog, "unusable_file", path, why)
    for path in selection.unused:
        _add(catalog, UNUSED_FILE, path, _why(root, selection, path))


def note_unused_media(catalog: Catalog, selection: Selection, scanned: ScannedFiles) -> None:
    """Enter the pictures and clips among the ``scanned`` files that no record shows; they may be millions.

    A file whose name, or the end of it, a table gives to a picture counts as shown.
    """
    if catalog.is_done(_STAGE):
        return
    db = catalog.db
    for name in ("shown", "cell_name"):
        db.execute(f"CREATE TEMP TABLE {name}(path TEXT PRIMARY KEY) WITHOUT ROWID")
    with catalog.transaction():
        db.executemany("INSERT OR IGNORE INTO shown VALUES (?)", ((path,) for path in _files_of_sources(selection)))
        db.execute(
            "INSERT OR IGNORE INTO shown SELECT json_extract(part.value, '$[1]')"
            " FROM medium, json_each(medium.ref, '$.parts') AS part"
        )
        # A cell of a table may name a file instead of holding its bytes, which is looked for when the cell is read.
        db.execute("INSERT OR IGNORE INTO cell_name SELECT json_extract(ref, '$.origin') FROM medium WHERE cell <> ''")
        names = db.execute("SELECT path FROM cell_name")
        db.executemany("INSERT OR IGNORE INTO shown VALUES (?)", ((end,) for (name,) in names for end in _ends(name)))
        for path in scanned.paths():
            is_shown = named_kind(path) is None or _is_in(catalog, "shown", path)
            if not is_shown and not any(_is_in(catalog, "cell_name", end) for end in _ends(path)):
                _add(catalog, UNUSED_MEDIA, path, "no record shows this file")
        catalog.mark_done(_STAGE)
    db.execute("DROP TABLE shown")
    db.execute("DROP TABLE cell_name")


def unused_part(catalog: Catalog) -> dict[str, Any]:
    """What the manifest says of the input: the numbers of unused files and media, and the first of the files."""
    count = dict(catalog.db.execute("SELECT reason, count(*) FROM reject WHERE source = -1 GROUP BY reason"))
    first = catalog.db.execute(
        "SELECT locator, detail FROM reject WHERE reason = ? ORDER BY id LIMIT ?", (UNUSED_FILE, _IN_MANIFEST)
    )
    return {
        "unused": count.get(UNUSED_FILE, 0),
        "unused_files": [{"path": path, "why": why} for path, why in first],
        "unused_media": count.get(UNUSED_MEDIA, 0),
    }


def _ends(path: str) -> Iterator[str]:
    """``path``, and what is left of it without its first folder, without its first two, ..."""
    steps = path.split("/")
    return ("/".join(steps[number:]) for number in range(len(steps)))


def _is_in(catalog: Catalog, table: str, path: str) -> bool:
    return catalog.db.execute(f"SELECT 1 FROM {table} WHERE path = ?", (path,)).fetchone() is not None


def _files_of_sources(selection: Selection) -> Iterator[str]:
    return (path for spec in selection.specs for path in (*spec.files, *spec.beside))


def _why(root: Root, selection: Selection, path: str) -> str:
    if any(path in spec.files or path in spec.beside for spec in selection.left_out):
        return "the mixture does not list its source"
    return why_unused(root, path)


def _add(catalog: Catalog, reason: str, path: str, why: str) -> None:
    reject = Reject(scope="source", stage="scan", reason=reason, source="", locator=path, id="", detail=why)
    catalog.add_reject(-1, reject)
