"""Which sources a folder holds. Each format in turn claims what it recognises by content, in the order of `SOURCES`.

Costs one look at the beginning of every file that is no picture, clip or caption, and a few hundred bytes of memory
per file. The result depends on the files alone, not on where the folder lies or in what order it is listed.

`why_unused` says why no source is made of a file: what was seen in it, the nearest format, and what is missing for that
format. Each format declares what it needs (`SourceFormat.needs`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from mimicit.errors import RejectedError, UsageError
from mimicit.sources.containers.table_rows import picture_columns
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.format import A_MEDIUM, PICTURES, Needs, SourceSpec
from mimicit.sources.registry import SOURCES
from mimicit.sources.sniff import SOUND_EXTENSIONS, Fields, Head, HeadKind, sniff

_MAX_NAME = 80
_NOT_IN_NAME = re.compile(r"[^a-z0-9_-]+")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What was found beneath the root; all sorted.

    ``unused`` are the files that no source is made of. Pictures and clips are not among them: whether a record uses
    them is known only once the records have been read; ``loose_media`` is the number of pictures and clips that no
    ``folder`` source holds. ``unnamed_media`` are pictures and clips by their contents, but not by their names.
    ``skipped`` are (path, why) of links, special files and files that cannot be opened or named.
    """

    sources: tuple[SourceSpec, ...]
    unused: tuple[str, ...]
    loose_media: int
    unnamed_media: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def detect(root: Root, *, format: str | None = None) -> Detection:
    """Find the sources beneath ``root``.

    With a ``format``, every text and table file that can be read as that format at all is taken for it, whatever it
    looks like. `UsageError` if there is no such format.
    """
    if format is not None and format not in SOURCES:
        raise UsageError(f"--format: no format {format!r}; there are: {', '.join(sorted(SOURCES))}")
    skipped: list[tuple[str, str]] = []
    heads = _heads(root, skipped)
    described = {path: head for path, head in heads.items() if head.kind not in ("image", "video")}
    sources: list[SourceSpec] = []
    by_record = [(name, taken, False) for name, taken in SOURCES.items() if taken.by_record]
    for name, source_format, of_most in [(name, taken, taken.by_record) for name, taken in SOURCES.items()] + by_record:
        if format in (None, name):
            # A format with ``by_record`` first claims files most of whose records are its own, and in a second round
            # files in which any record is: so a stray record of one format does not decide what a file is.
            seen = heads if source_format.of_media else described
            if of_most:
                seen = {path: head.of_most() for path, head in seen.items()}
            found = source_format.claim(root, seen, force=format is not None)
            for spec in found:
                for path in (*spec.files, *spec.beside):
                    heads.pop(path, None)
                    described.pop(path, None)
            sources.extend(found)
    return Detection(
        sources=tuple(sorted(_named(sources), key=lambda spec: spec.name)),
        unused=tuple(described),
        loose_media=len(heads) - len(described),
        unnamed_media=tuple(path for path in heads if path not in described and named_kind(path) is None),
        skipped=tuple(sorted(skipped)),
    )


def _heads(root: Root, skipped: list[tuple[str, str]]) -> dict[str, Head]:
    """The head of every file, sorted by path. Equal heads are one object: a million sidecars look alike."""
    heads: dict[str, Head] = {}
    known: dict[tuple[object, ...], Head] = {}
    paths = sorted(path for path, _ in root.walk(lambda path, why: skipped.append((path, why))))
    for path in paths:
        try:
            head = sniff(root, path)
        except RejectedError as error:
            skipped.append((path, error.detail))
        else:
            shapes = (tuple(shape.items()) for shape in head.shapes)
            heads[path] = known.setdefault((head.kind, head.counts, *shapes), head)
    return heads


def _named(specs: Sequence[SourceSpec]) -> list[SourceSpec]:
    """The specs with unique slugs.

    A slug is the last step of the path that a spec is named after, with as many of the folders above it as are needed
    to make it unique, and with a hash if even the whole path is not unique.
    """
    steps = [1] * len(specs)
    names = [_slug(spec.name, 1) for spec in specs]
    for _ in range(max((spec.name.count("/") for spec in specs), default=0)):
        count = Counter(names)
        steps = [taken + (count[name] > 1) for taken, name in zip(steps, names, strict=True)]
        names = [_slug(spec.name, taken) for spec, taken in zip(specs, steps, strict=True)]
    count = Counter(names)
    return [
        replace(spec, name=name if count[name] == 1 else _with_hash(name, spec))
        for spec, name in zip(specs, names, strict=True)
    ]


def _with_hash(name: str, spec: SourceSpec) -> str:
    digest = hashlib.blake2b("\0".join((spec.format, *spec.files)).encode(), digest_size=4).hexdigest()
    return f"{name[: _MAX_NAME - len(digest) - 1]}-{digest}"


def _slug(path: str, steps: int) -> str:
    joined = "-".join(path.split("/")[-steps:]).lower()
    return _NOT_IN_NAME.sub("-", joined).strip("-")[:_MAX_NAME] or "source"


def is_data(path: str) -> bool:
    """Whether a file may hold data by its name, which is neither that of a text for people nor of a program."""
    name = PurePosixPath(path.lower())
    return name.suffix not in _PAPER_SUFFIXES and name.name.partition(".")[0] not in _PAPERS


def why_unused(root: Root, path: str) -> str:
    """What was seen in the file at ``path``, which no format has claimed, and what it lacks for the nearest format."""
    if PurePosixPath(path).suffix.lower() in _SPREADSHEETS:
        return "a spreadsheet; save the sheet as CSV (UTF-8)"
    if PurePosixPath(path).suffix.lower() in SOUND_EXTENSIONS:
        return "sound, which no sample can hold"
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
    seen = f"{_SEEN.get(kind, kind)} {_names_in_words(_names(head.kind, fields))}"
    if head.kind == "csv":
        return f"{seen}; name them image, question and answer, or image and caption"
    half = _half_of_a_set(path, head)
    if half:
        return f"{seen}; {half}"
    format, missing = _nearest(head)
    if not missing:  # as {"data": [...]}, which MIMIC-IT writes otherwise
        inside = [name.partition("[].")[2] for name in fields if name.count("[].") == name.count("[]") == 1]
        of_records = f"the fields of its records ({_names_in_words(inside)})" if inside else "what is in it"
        return f"{seen}; name {of_records} image, question and answer"
    return f"{seen}; the nearest format is {format}, for which {_names_in_words(missing)} is missing"


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


def _names_in_words(names: Iterable[str]) -> str:
    listed = [name[:_MOST_CHARACTERS] for name in names]
    return ", ".join(listed[:_MOST_NAMES] + ["..."] * (len(listed) > _MOST_NAMES)) or "nothing in it"
