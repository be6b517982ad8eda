"""What a file is made of, from its beginning alone: the kind of file, and the fields of its first record.

Formats claim files by these heads. Pictures and clips are known by their names, and ``.txt`` is a caption by its
name; neither is opened. Everything else is read up to 256 KiB, so a first look at a million files stays cheap.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Final, Literal

import orjson

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.arrow import arrow_columns, is_arrow
from mimicit.sources.base64_text import looks_like_base64
from mimicit.sources.csv_rows import csv_columns
from mimicit.sources.json_cursor import JsonCursor
from mimicit.sources.media_names import named_kind
from mimicit.sources.parquet import parquet_columns
from mimicit.sources.root import Root
from mimicit.sources.tar_members import is_tar
from mimicit.sources.tar_samples import TarSample, tar_samples
from mimicit.sources.zipped import open_zipped

__all__ = ["Head", "HeadKind", "first_member", "sniff"]

HeadKind = Literal[
    "image", "video", "text", "array", "lines", "object", "csv", "parquet", "arrow", "tar", "yaml", "zip", "other"
]
"""``array``, ``lines`` and ``object`` are JSON: an array of records, a record per line, and one big object."""

_HEAD_BYTES: Final = 256 << 10
_MAX_DEPTH: Final = 4
_MAX_MEMBERS: Final = 32
_MAX_LINES: Final = 16
_MAX_KEY_BYTES: Final = 200
_MAX_SAMPLES: Final = 64
_PACKED_TARS: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_YAML_KEY: Final = re.compile(rb"^[ -]*([A-Za-z0-9_]{1,64})[ ]*:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of one file.

    ``fields`` describes the first record (of an ``object``: the object itself), as far as it was seen: from path,
    such as ``conversations[].from``, to ``object``, ``array``, ``text``, ``base64`` (long text of that alphabet)
    or ``other``. Of an array only the first element is described. Tables have their columns, with Arrow's type names;
    a ``tar`` has the suffixes of its first sample with more than one file, and the fields of its ``json``.
    """

    kind: HeadKind
    fields: Mapping[str, str] = field(default_factory=dict)


def sniff(root: Root, path: str) -> Head:
    """The head of the file at ``path``; `RejectedError` where it cannot be opened."""
    medium = named_kind(path)
    if medium is not None:
        return Head(medium)
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".txt":
        return Head("text")
    with root.open(path) as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"PAR1"):
        return _table_head("parquet", parquet_columns, root, path)
    if is_arrow(path, head):
        return _table_head("arrow", arrow_columns, root, path)
    if is_tar(head):
        return _tar_head(root, path)
    if path.lower().endswith(_PACKED_TARS):
        raise RejectedError("unusable_file", "a compressed archive cannot be read by places; unpack it")
    if suffix in (".yaml", ".yml"):
        return Head("yaml", dict.fromkeys((key.decode() for key in _YAML_KEY.findall(head)[:_MAX_MEMBERS]), "other"))
    if head.startswith(b"PK\x03\x04"):
        return _zip_head(root, path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] in (b"{", b"["):
        return _json_head(start, has_lines_suffix=suffix in (".jsonl", ".ndjson"))
    if suffix in (".csv", ".tsv"):
        return Head("csv", dict.fromkeys(csv_columns(head), "text"))
    return Head("other")


def first_member(head: Head, path: str = "") -> str:
    """The path of the first member of the object at ``path`` (empty: the record itself); empty if it has none."""
    start = f"{path}." if path else ""
    return next((name for name in head.fields if name and name.startswith(start)), "")


def _table_head(
    kind: Literal["arrow", "parquet"], columns: Callable[[Root, str], dict[str, str]], root: Root, path: str
) -> Head:
    try:
        return Head(kind, columns(root, path))
    except SourceError:
        return Head(kind)  # a name may still give it away, and then reading it says what is wrong


def _tar_head(root: Root, path: str) -> Head:
    """The first sample of several files, or the very first file: what the suffixes are, and the fields of its JSON."""
    found: TarSample | None = None
    # A damaged archive is a fault for whoever reads it; until then its first samples are as good as any.
    with contextlib.suppress(SourceError):
        samples = (sample for sample in tar_samples(root, path) if isinstance(sample, TarSample))
        for sample in islice(samples, _MAX_SAMPLES):
            found = found or sample
            if len(sample.files) > 1:
                found = sample
                break
    fields: dict[str, str] = {}
    for suffix, member in found.files[:_MAX_MEMBERS] if found else ():
        fields[suffix] = named_kind(f"x.{suffix}") or ("text" if suffix == "txt" else "other")
        if suffix == "json":
            with root.open(path) as file:
                file.seek(member.offset)
                head = file.read(min(member.size, _HEAD_BYTES))
            with contextlib.suppress(SourceError):
                _survey(JsonCursor(io.BytesIO(head), ""), suffix, fields, 0)
    return Head("tar", fields)


def _zip_head(root: Root, path: str) -> Head:
    """``fields`` are those of the first record, where the archive holds JSON Lines and nothing else."""
    try:
        with open_zipped(root, path) as file:
            head = _json_head(file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip(), has_lines_suffix=True)
    except SourceError:
        return Head("zip")
    return Head("zip", head.fields if head.kind == "lines" else {})


def _json_head(head: bytes, *, has_lines_suffix: bool) -> Head:
    if head[:1] == b"[":
        return Head("array", _fields(head[1:]))
    lines = head.split(b"\n", _MAX_LINES)[:_MAX_LINES]
    record = next((line for line in lines if _is_object(line)), None)
    if record is not None and (has_lines_suffix or record is lines[0]):
        return Head("lines", _fields(record))
    return Head("lines" if has_lines_suffix else "object", _fields(head))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _fields(record: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    # A fault is the end of what was read, or one that reading the file will name.
    with contextlib.suppress(SourceError):
        _survey(JsonCursor(io.BytesIO(record), ""), "", fields, 0)
    return fields


def _survey(cursor: JsonCursor, path: str, fields: dict[str, str], depth: int) -> None:
    """Pass the value at ``cursor`` and describe it in ``fields``, which stays useful if a fault ends it half-way."""
    first = cursor.peek()
    if first == b"{" and depth < _MAX_DEPTH:
        fields[path] = "object"
        for number, key in enumerate(cursor.members()):
            if number >= _MAX_MEMBERS or key.raw is None or len(key.raw) > _MAX_KEY_BYTES:
                cursor.value(keep_bytes=0)
                continue
            name = key.raw.decode("utf-8", "replace")
            _survey(cursor, f"{path}.{name}" if path else name, fields, depth + 1)
    elif first == b"[" and depth < _MAX_DEPTH:
        fields[path] = "array"
        for index in cursor.elements():
            if index == 0:
                _survey(cursor, f"{path}[]", fields, depth + 1)
            else:
                cursor.value(keep_bytes=0)
    elif first == b'"':
        fields[path] = "base64"  # true of the one text that may be longer than what was read
        text = cursor.value(keep_bytes=_HEAD_BYTES).raw or b""
        fields[path] = "base64" if looks_like_base64(text) else "text"
    else:
        cursor.value(keep_bytes=0)
        fields[path] = {b"{": "object", b"[": "array"}.get(first, "other")
