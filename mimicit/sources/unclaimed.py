"""Why no source is made of a file: what was seen in it, the nearest format, and what is missing for that format.

Costs one look at the beginning of the file (see `sniff`). Each format declares what it needs (`SourceFormat.needs`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final

from mimicit.errors import RejectedError
from mimicit.sources.containers.table_rows import picture_columns
from mimicit.sources.files.root import Root
from mimicit.sources.format import A_MEDIUM, PICTURES, Needs
from mimicit.sources.registry import SOURCES
from mimicit.sources.sniff import Fields, Head, HeadKind, sniff

_SPREADSHEETS: Final = frozenset({".ods", ".xls", ".xlsm", ".xlsx"})
_PAPERS: Final = frozenset(
    {"authors", "changelog", "citation", "contributing", "copying", "license", "licence", "notice", "readme"}
)
_PAPER_SUFFIXES: Final = frozenset({".bib", ".cff", ".css", ".html", ".ipynb", ".md", ".pdf", ".py", ".rst", ".sh"})
_SEEN: Final[dict[HeadKind, str]] = {
    "array": "a JSON list of records with",
    "lines": "JSON Lines of records with",
    "object": "a JSON object with",
    "zip": "zipped JSON Lines of records with",
    "csv": "a table with the columns",
    "parquet": "a parquet table with the columns",
    "arrow": "an Arrow table with the columns",
    "tar": "a tar of samples with",
}
_MOST_NAMES: Final = 8
_MOST_CHARACTERS: Final = 40


def is_data(path: str) -> bool:
    """Whether a file may hold data by its name, which is neither that of a text for people nor of a program."""
    name = PurePosixPath(path.lower())
    return name.suffix not in _PAPER_SUFFIXES and name.name.partition(".")[0] not in _PAPERS


def why_unused(root: Root, path: str) -> str:
    """What was seen in the file at ``path``, which no format has claimed, and what it lacks for the nearest format."""
    if PurePosixPath(path).suffix.lower() in _SPREADSHEETS:
        return "a spreadsheet; save the sheet as CSV (UTF-8)"
    try:
        head = sniff(root, path)
    except RejectedError as error:
        return error.detail
    if head.kind in ("text", "yaml", "other"):
        return _of_no_records(root, path, head.kind)
    if not head.any(any):  # no record has a named field
        return _without_records(head.kind)
    fields = head.of_most().fields
    if not any(fields):
        fields = next(filter(any, head.shapes))
    kind = "object" if head.kind == "lines" and sum(head.counts) == 1 else head.kind
    seen = f"{_SEEN.get(kind, kind)} {_listed(_names(head.kind, fields))}"
    if head.kind == "csv":
        return f"{seen}; name them image, question and answer, or image and caption"
    half = _half_of_a_set(path, head)
    if half:
        return f"{seen}; {half}"
    format, missing = _nearest(head)
    if not missing:  # as {"data": [...]}, which MIMIC-IT writes otherwise
        inside = [name.partition("[].")[2] for name in fields if name.count(".") == 1 and name.count("[]") == 1]
        of_records = f"the fields of its records ({_listed(inside)})" if inside else "what is in it"
        return f"{seen}; name {of_records} image, question and answer"
    return f"{seen}; the nearest format is {format}, for which {_listed(missing)} is missing"


def _of_no_records(root: Root, path: str, kind: HeadKind) -> str:
    if kind == "text":
        stem = path.rpartition("/")[2].rpartition(".")[0]
        return f"a text, and no picture or clip {stem[:_MOST_CHARACTERS]!r} beside it that it could describe"
    if kind == "yaml":
        return "a YAML file; the only ones that are read are training lists of MIMIC-IT, with mimicit_path"
    with root.open(path) as file:
        start = file.read(8)
    return f"neither JSON, CSV, parquet, Arrow nor tar: it begins with {start!r}" if start else "an empty file"


def _without_records(kind: HeadKind) -> str:
    match kind:
        case "csv":
            return "a table whose first line does not name the columns, each once, in UTF-8"
        case "zip":
            return "a zip archive; unpack it"
        case "tar":
            return "a tar in which no sample was found"
    return f"{_SEEN.get(kind, kind).partition(' with')[0]} in which no record could be read"


def _half_of_a_set(path: str, head: Head) -> str:
    """What the file is in a set of MIMIC-IT whose instructions are missing; empty if it is no part of one."""
    if head.kind not in ("object", "lines") or "base64" not in head.fields.values():
        return ""
    name = path.rpartition("/")[2].rpartition(".")[0]
    return f"these are pictures by id, and no instructions name them: {name[:_MOST_CHARACTERS]}_instructions.json"


def _nearest(head: Head) -> tuple[str, list[str]]:
    """The format of whose fields a record of the file has the most, and the fields that it lacks for that format."""
    rank: tuple[int, int] | None = None
    found = "manifest", ["instruction and answer"]
    for name, format in SOURCES.items():
        for needs in (needs for needs in format.needs if head.kind in needs.kinds):
            for fields in head.shapes:
                missing = list(_missing(needs, head.kind, fields))
                here = len(missing) - len(needs.fields), len(missing)
                if rank is None or here < rank:
                    rank, found = here, (name, missing)
    return found


def _missing(needs: Needs, kind: HeadKind, fields: Fields) -> Iterator[str]:
    there = {*fields, *_generic_names(kind, fields)}
    for names in needs.fields:
        if there.isdisjoint(names):
            yield " or ".join(names)


def _generic_names(kind: HeadKind, fields: Fields) -> Iterator[str]:
    if kind == "tar" and not {"image", "video"}.isdisjoint(fields.values()):
        yield A_MEDIUM
    if kind in ("parquet", "arrow") and picture_columns(fields):
        yield PICTURES


def _names(kind: HeadKind, fields: Fields) -> list[str]:
    if kind in ("csv", "parquet", "arrow"):
        return list(fields)
    named = [name for name in fields if name and "[" not in name]
    # Also "1.jpg", which is inside of nothing, and not "1.jpg.width".
    outer = [name for name in named if not any(name[: dot.start()] in fields for dot in re.finditer(r"\.", name))]
    return [f".{name}" if kind == "tar" else name for name in outer]


def _listed(names: Iterable[str]) -> str:
    listed = [name[:_MOST_CHARACTERS] for name in names]
    return ", ".join(listed[:_MOST_NAMES] + ["..."] * (len(listed) > _MOST_NAMES)) or "nothing in it"
