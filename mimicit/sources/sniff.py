"""What a file is made of, from its beginning alone: the kind of file, and the shapes of its first records.

Formats claim files by these heads. Pictures and clips are known by their names, and ``.txt`` is a caption by its
name; neither is opened, but for the lists of captions of Flickr8k. A file of another name may be a picture or clip by
its first bytes. Of all others, the first 1,000 records are looked at, as far as they lie in the first 4 MiB: one odd
record, first or not, must not decide what a file is. A small file costs no more than its own bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final, Literal

import orjson

from mimicit.errors import SourceError
from mimicit.media.sniff import HEAD_BYTES, kind_of
from mimicit.sources.containers.arrow import arrow_columns, is_arrow
from mimicit.sources.containers.base64_text import looks_like_base64
from mimicit.sources.containers.csv_rows import csv_columns
from mimicit.sources.containers.json_cursor import JsonCursor
from mimicit.sources.containers.json_rows import begins_array
from mimicit.sources.containers.parquet import parquet_columns
from mimicit.sources.containers.tar_members import is_tar
from mimicit.sources.containers.tar_samples import first_samples
from mimicit.sources.containers.unpacked import as_utf8, is_packed, open_start, open_zipped
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.root import Root

HeadKind = Literal[
    "image", "video", "text", "array", "lines", "object", "csv", "parquet", "arrow", "tar", "yaml", "zip", "other"
]
"""``array``, ``lines`` and ``object`` are JSON: an array of records, a record per line, and one big object."""

Fields = Mapping[str, str]
"""The shape of a record: from path, such as ``conversations[].from``, to the kind of value there (see `Head`)."""

_MAX_RECORDS: Final = 1_000
_MAX_BYTES: Final = 4 << 20
_KIND_BYTES: Final = 256 << 10  # enough to tell the kind of file, and often for as many records
_MAX_DEPTH: Final = 4
_MAX_MEMBERS: Final = 32
_MAX_SHAPES: Final = 32
_MAX_FIELDS: Final = 512
_MAX_KEY_CHARACTERS: Final = 200
_TEXT_BYTES: Final = 1024  # of a text, looked at to recognise base64
_LINES: Final = (".jsonl", ".ndjson")
_PACKED: Final = frozenset({".bz2", ".gz", ".xz", ".zst"})
SOUND_EXTENSIONS: Final = frozenset((".aac", ".flac", ".m4a", ".m4b", ".mp3", ".oga", ".opus", ".wav", ".wma"))
"""Those of files of sound, some of whose containers hold clips, too."""

_CAPTIONS: Final = (".txt", ".token")
_MAY_LIST_CAPTIONS: Final = re.compile(r"(?:^|/)captions\.txt$|(?<!\.lemma)\.token\.txt$")
_LISTED: Final = {"image", "caption"}
_YAML_KEY: Final = re.compile(rb"^[ -]*([A-Za-z0-9_]{1,64})[ ]*:", re.MULTILINE)
_TELLING: Final = ("other", "text", "array", "object", "base64")  # of two kinds at one path, the later one counts


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of one file.

    ``shapes`` are the distinct shapes of the first records, in order, and ``counts`` the number of records of each. A
    shape describes a record (of an ``object``: the object itself), as far as it was read: from path, such as
    ``conversations[].from``, to ``object``, ``array``, ``text``, ``base64`` (long text of that alphabet) or ``other``.
    The elements of a list inside a record are described together. Tables have one shape, their columns with Arrow's
    type names; a ``tar`` has the suffixes of its samples, and the fields of their ``json``.
    """

    kind: HeadKind
    shapes: tuple[Fields, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def fields(self) -> Fields:
        """The first shape; of a table, its columns."""
        return self.shapes[0] if self.shapes else {}

    def any(self, fits: Callable[[Fields], bool]) -> bool:
        """Whether one of the first records ``fits``."""
        return any(map(fits, self.shapes))

    def of_most(self) -> Head:
        """The head with nothing but its most frequent shape."""
        if len(self.shapes) < 2:
            return self
        most = max(range(len(self.counts)), key=self.counts.__getitem__)
        return Head(self.kind, self.shapes[most : most + 1], self.counts[most : most + 1])


def sniff(root: Root, path: str) -> Head:
    """The head of the file at ``path``; `RejectedError` if it cannot be opened."""
    medium = named_kind(path)
    if medium is not None:
        return Head(medium)
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".txt" and not _MAY_LIST_CAPTIONS.search(path.lower()):
        return Head("text")
    with root.open(path) as file:
        head = file.read(_KIND_BYTES)
        if suffix in _CAPTIONS and {*(columns := csv_columns(head))} == _LISTED:
            return _one_shape("csv", dict.fromkeys(columns, "text"))
        if suffix == ".txt":
            return Head("text")
        if not is_packed(head) and (found := _text_head(head, file, suffix)):
            return found
    if is_packed(head):
        return _packed_head(root, path)
    if head.startswith(b"PAR1"):
        return _table_head("parquet", parquet_columns, root, path)
    if is_arrow(path, head):
        return _table_head("arrow", arrow_columns, root, path)
    if is_tar(head):
        return _tar_head(root, path)
    if head.startswith(b"PK\x03\x04"):
        return _zip_head(root, path)
    return Head("other" if suffix in SOUND_EXTENSIONS else kind_of(head[:HEAD_BYTES]) or "other")


def kept_head(root: Root, path: str) -> Head:
    """As `sniff`, but only once in a process for all pieces of a scanned file."""
    return root.kept(("head", path), lambda: sniff(root, path))


class _Shapes:
    """Gathers the shapes of records; once there are `_MAX_SHAPES`, others are merged into the last one."""

    def __init__(self) -> None:
        self._shapes: list[dict[str, str]] = []
        self._counts: list[int] = []
        self._numbers: dict[tuple[tuple[str, str], ...], int] = {}

    def add(self, fields: dict[str, str]) -> None:
        if not fields:
            return
        key = tuple(fields.items())
        number = self._numbers.get(key)
        if number is None and len(self._shapes) < _MAX_SHAPES:
            number = self._numbers[key] = len(self._shapes)
            self._shapes.append(fields)
            self._counts.append(0)
        elif number is None:
            number = _MAX_SHAPES - 1
            for path, kind in fields.items():
                _note(self._shapes[number], path, kind)
        self._counts[number] += 1

    def head(self, kind: HeadKind) -> Head:
        return Head(kind, tuple(self._shapes), tuple(self._counts))


def _one_shape(kind: HeadKind, fields: Fields) -> Head:
    return Head(kind, (fields,), (1,)) if fields else Head(kind)


def _table_head(
    kind: Literal["arrow", "parquet"], columns: Callable[[Root, str], dict[str, str]], root: Root, path: str
) -> Head:
    try:
        return _one_shape(kind, columns(root, path))
    except SourceError:
        return Head(kind)  # its name may still identify it; reading it then reports what is wrong


def _text_head(head: bytes, file: BinaryIO, suffix: str) -> Head | None:
    """The head of the text that begins with ``head`` and continues in ``file``; None if no format reads such text."""
    if _begins_json(head) or (suffix in _LINES and head.strip()):
        return _json_head(head, file, has_lines_suffix=suffix in _LINES)
    if suffix in (".yaml", ".yml"):
        return _one_shape("yaml", dict.fromkeys((key.decode() for key in _YAML_KEY.findall(head)), "other"))
    if suffix in (".csv", ".tsv"):
        return _one_shape("csv", dict.fromkeys(csv_columns(head), "text"))
    return None


def _packed_head(root: Root, path: str) -> Head:
    """The head of a file that is read through a copy (see `unpacked`): a tar, or a text."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes if suffix.lower() not in _PACKED]
    with open_start(root, path) as file:
        head = file.read(_KIND_BYTES)
        if is_tar(head):
            return _tar_head(root, path)
        return _text_head(head, file, suffixes[-1] if suffixes else "") or Head("other")


def _tar_head(root: Root, path: str) -> Head:
    """The shapes of the samples up to the first one that has a picture or clip and a file of another kind."""
    shapes = _Shapes()
    left = _MAX_BYTES
    with open_start(root, path) as file:
        for sample in first_samples(root, path, _MAX_RECORDS):
            fields: dict[str, str] = {}
            for suffix, member in sample.files[:_MAX_MEMBERS]:
                _note(fields, suffix, named_kind(f"x.{suffix}") or ("text" if suffix == "txt" else "other"))
                if suffix == "json" and left > 0:
                    file.seek(member.offset)
                    raw = file.read(min(member.size, left))
                    left -= len(raw)
                    with contextlib.suppress(UnicodeDecodeError):
                        raw = as_utf8(raw)
                    for name, kind in _shape_of(raw).items():
                        _note(fields, f"{suffix}.{name}".rstrip("."), kind)
            shapes.add(fields)
            kinds = {named_kind(f"x.{suffix}") for suffix, _ in sample.files}
            if left <= 0 or len(kinds) > 1:
                break
    return shapes.head("tar")


def _zip_head(root: Root, path: str) -> Head:
    """The head of a zip archive, with the shapes of its records if it holds JSON Lines and nothing else."""
    try:
        with open_zipped(root, path) as file:
            head = _json_head(file.read(_KIND_BYTES), file, has_lines_suffix=True)
    except SourceError:
        return Head("zip")
    return Head("zip", head.shapes, head.counts) if head.kind == "lines" else Head("zip")


def _begins_json(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _json_head(head: bytes, file: BinaryIO, *, has_lines_suffix: bool) -> Head:
    """The head of the JSON file that begins with ``head`` and continues in ``file``, which is read if needed."""
    found = _records_of(head, has_lines_suffix=has_lines_suffix)
    if sum(found.counts) < _MAX_RECORDS and (more := file.read(_MAX_BYTES - len(head))):
        return _records_of(head + more, has_lines_suffix=has_lines_suffix)
    return found


def _records_of(head: bytes, *, has_lines_suffix: bool) -> Head:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    shapes = _Shapes()
    if begins_array(text):
        for raw in _elements(text):
            shapes.add(_shape_of(raw))
        return shapes.head("array")
    lines = text.split(b"\n", _MAX_RECORDS)[:_MAX_RECORDS]
    found = [_is_object(line) for line in lines]
    begins_list = text[:1] == b"["
    if not has_lines_suffix and not found[0] and not begins_list and found.count(True) * 2 <= len(found):
        shapes.add(_shape_of(text))
        return shapes.head("object")
    for line, is_object in zip(lines, found, strict=True):
        if is_object:
            shapes.add(_shape_of(line))
        elif line.startswith(b"["):
            for raw in _elements(line):
                shapes.add(_shape_of(raw) if raw.startswith(b"{") else {})
    if not any(found) and not begins_list:
        shapes.add(_shape_of(text))  # the first line may be longer than what was read
    return shapes.head("lines")


def _elements(array: bytes) -> Iterator[bytes]:
    """The first elements of the JSON array that begins with ``array``; the very first even if it is cut off."""
    cursor = JsonCursor(io.BytesIO(array), "")
    start, number = 0, 0
    try:
        for number in cursor.elements():
            if number >= _MAX_RECORDS:
                return
            cursor.peek()
            start = cursor.offset
            cursor.value(keep_bytes=0)
            yield array[start : cursor.offset]
    except SourceError:
        if number == 0 and start:
            yield array[start:]


def _is_object(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        json.loads(line)  # unlike orjson, it reads the NaN that Python writes
    except (ValueError, RecursionError):
        return False
    return True


def _shape_of(raw: bytes) -> dict[str, str]:
    """The shape of the JSON value ``raw``, up to where it is cut off or damaged."""
    fields: dict[str, str] = {}
    try:
        _describe(orjson.loads(raw), "", fields, 0)
    except orjson.JSONDecodeError:
        # Either the value is cut off here, or reading the file will report the fault.
        with contextlib.suppress(SourceError):
            _survey(JsonCursor(io.BytesIO(raw), ""), "", fields, 0)
    return fields


def _describe(value: Any, path: str, fields: dict[str, str], depth: int) -> None:
    """Note in ``fields`` what ``value`` at ``path`` is."""
    within = depth < _MAX_DEPTH
    match value:
        case dict():
            _note(fields, path, "object")
            seen: set[tuple[tuple[str, str], ...]] = set()
            for number, (name, part) in enumerate(islice(value.items(), _MAX_RECORDS if within else 0)):
                inner: dict[str, str] = {}
                _describe(part, "", inner, depth + 1)
                if _tells(inner, number, seen):
                    _note_member(fields, path, name, inner)
        case list():
            _note(fields, path, "array")
            for part in islice(value, _MAX_RECORDS if within else 0):
                _describe(part, f"{path}[]", fields, depth + 1)
        case str():
            _note(fields, path, _kind_of_text(value[:_TEXT_BYTES].encode("utf-8", "replace")))
        case _:
            _note(fields, path, "other")


def _survey(cursor: JsonCursor, path: str, fields: dict[str, str], depth: int) -> None:
    """As `_describe` for the value at ``cursor``, up to a fault or the end of what was read."""
    first = cursor.peek()
    if first == b"{" and depth < _MAX_DEPTH:
        _note(fields, path, "object")
        seen: set[tuple[tuple[str, str], ...]] = set()
        for number, key in enumerate(cursor.members()):
            if number >= _MAX_RECORDS or key.raw is None:
                cursor.value(keep_bytes=0)
                continue
            inner: dict[str, str] = {}
            try:
                _survey(cursor, "", inner, depth + 1)
            finally:
                if _tells(inner, number, seen):
                    _note_member(fields, path, _decoded(key.raw), inner)
    elif first == b"[" and depth < _MAX_DEPTH:
        _note(fields, path, "array")
        for number in cursor.elements():
            run = cursor.run(_MAX_BYTES)
            if values := _values_of(run):
                for part in values[: max(0, _MAX_RECORDS - number)]:
                    _describe(part, f"{path}[]", fields, depth + 1)
                cursor.skip(run, len(values))
            elif number < _MAX_RECORDS:
                _survey(cursor, f"{path}[]", fields, depth + 1)
            else:
                cursor.value(keep_bytes=0)
    elif first == b'"':
        kind = "base64"  # assumed of a text that does not end in what was read
        try:
            text = cursor.value(keep_bytes=_MAX_BYTES).raw or b""
            kind = _kind_of_text(text)
        finally:
            _note(fields, path, kind)
    elif first:
        cursor.value(keep_bytes=0)
        _note(fields, path, {b"{": "object", b"[": "array"}.get(first, "other"))


def _values_of(run: bytes) -> list[Any]:
    """The elements of an array that are written as ``run``; none if it cannot be parsed."""
    try:
        values: list[Any] = orjson.loads(b"[%b]" % run)
    except orjson.JSONDecodeError:
        return []
    return values


def _tells(inner: dict[str, str], number: int, seen: set[tuple[tuple[str, str], ...]]) -> bool:
    """Whether the member ``number`` of an object is one of the first, or has another shape than those before it."""
    shape = tuple(inner.items())
    is_new = shape not in seen
    seen.add(shape)
    return is_new or number < _MAX_MEMBERS


def _note_member(fields: dict[str, str], path: str, name: str, inner: dict[str, str]) -> None:
    place = f"{path}.{name[:_MAX_KEY_CHARACTERS]}" if path else name[:_MAX_KEY_CHARACTERS]
    for rest, kind in inner.items():
        _note(fields, place + (rest if rest.startswith("[") or not rest else f".{rest}"), kind)


def _note(fields: dict[str, str], path: str, kind: str) -> None:
    known = fields.get(path)
    if known is not None:
        is_telling = known in _TELLING and kind in _TELLING and _TELLING.index(kind) > _TELLING.index(known)
        fields[path] = kind if is_telling else known
    elif len(fields) < _MAX_FIELDS:
        fields[path] = kind


def _kind_of_text(text: bytes) -> str:
    return "base64" if looks_like_base64(text[:_TEXT_BYTES]) else "text"


def _decoded(name: bytes) -> str:
    try:
        return str(orjson.loads(b'"' + name + b'"'))
    except orjson.JSONDecodeError:
        return name.decode("utf-8", "replace")
