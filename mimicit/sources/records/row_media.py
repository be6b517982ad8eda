"""The media that a record names: by paths, as base64 text, or as data URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.containers.base64_text import looks_like_base64
from mimicit.sources.files.finding import ANY_EXTENSION, CLIP_EXTENSIONS, PICTURE_EXTENSIONS, media_ref, media_refs
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.items import MediaRef, Row
from mimicit.sources.records.choices import listed_texts
from mimicit.sources.records.column_names import Columns, columns_of
from mimicit.sources.records.text import checked_id

_MEDIUM_NAME: Final = re.compile(
    r"(?:image|img|picture|pic|photo|figure|screenshot|video|vid|clip|gif|frame)s?_?"
    r"(?:(?:file_?)?(?:name|path|key|id|idx|ur[il]|link|src|source|dir|folder|location)s?)?",
    re.IGNORECASE,
)
_NUMBERED: Final = re.compile(r"<image_?[0-9]{1,4}>")
_NOTHING: Final = frozenset({"", "none", "null", "nan", "n/a"})
_DATA_ID: Final = "data_id"
_TEXT_TYPES: Final = frozenset({"text", "text-only", "text_only", "language", "math", "code"})
_MAX_PATH_CHARACTERS: Final = 4096
_HEAD_CHARACTERS: Final = 1024
_MAX_ORIGIN: Final = 1024
_SAID_BY: Final = ("bytes", "base64", "url", "path", "file_name", "image", "image_url", "video", "video_url", "data")


@dataclass(frozen=True, slots=True)
class MediaFinder:
    """Finds the media that the records of one file name; ``beside`` is the folder of the file."""

    root: Root
    beside: str

    def of_row(self, row: Row, fields: dict[str, Any], columns: Columns) -> Iterator[MediaRef]:
        """The media in the media fields of ``row``, in their order; raises `RejectedError`."""
        for column, kind in columns.media:
            for step, entry in _entries(listed_texts(fields[column])):
                if step is None and names_nothing(entry):
                    continue
                if column in columns.by_id and not isinstance(entry, dict) and not names_nothing(entry):
                    if column.lower() != _DATA_ID or _is_of_medium(fields):
                        yield self._called(entry, kind, column)
                else:
                    entry = None if names_nothing(entry) else entry
                    yield self.find(entry, kind, row, (column,) if step is None else (column, step))

    def _called(self, value: object, kind: MediaKind | None, column: str) -> MediaRef:
        """The medium named ``value``, with or without its extension, also by an id as in COCO and other sets."""
        name = checked_id(value, column)
        if re.fullmatch(r"[0-9]{1,18}\.0", name):  # as pandas writes the numbers of a column in which one is missing
            name = name.removesuffix(".0")
        names = [name]
        if named_kind(name) is None and name.isdecimal() and kind == "image":
            coco = f"{int(name):012d}"
            names = [name, *([coco] if coco != name else []), f"COCO_train2014_{coco}", f"COCO_val2014_{coco}"]
        elif named_kind(name) is None and kind == "video":
            names = [name, f"v_{name}", *([f"video{name}", f"vid{name}"] if name.isdecimal() else [])]
        extensions = {"image": PICTURE_EXTENSIONS, "video": CLIP_EXTENSIONS}.get(kind or "", (*ANY_EXTENSION, ""))
        try:
            return media_ref(
                self.root,
                names,
                beside=self.beside,
                kind=kind if named_kind(name) is None else None,
                extensions=() if named_kind(name) else extensions,
                must_agree=len(names) > 1,
            )
        except RejectedError as error:
            raise RejectedError(error.reason, f"{column}: {error.detail}") from None

    def check_text_alone(self, fields: dict[str, Any], free: Iterable[str]) -> None:
        """Raise `RejectedError` if a record without media seems to name one in a ``free`` field, which is not read."""
        for column in free:
            value = fields[column]
            if isinstance(value, list):
                value = next(iter(value), None)
            if not isinstance(value, str) or not value or len(value) > _MAX_PATH_CHARACTERS:
                continue
            says = bool(_MEDIUM_NAME.fullmatch(column)) and not re.search(r"\s", value)
            says = says and not columns_of(fields).media  # else a media column says that there is none
            is_name = column.lower() == _DATA_ID and "data_type" not in map(str.lower, fields)
            if says or ((named_kind(value) is not None or is_name) and self._is_there(value, column, is_name)):
                raise RejectedError(
                    "missing_file",
                    f"column {column[:80]!r} names a picture or clip, {value[:200]!r}, and is not read as one: "
                    "call it media, and write the path of a file (nothing is fetched)",
                )

    def _is_there(self, path: str, column: str, is_name: bool) -> bool:
        try:
            if is_name:
                self._called(path, None, column)
            else:
                media_refs(self.root, [path], beside=self.beside)
        except RejectedError:
            return False
        return True

    def find(self, value: object, kind: MediaKind | None, row: Row, steps: Sequence[str | int]) -> MediaRef:
        """The medium that ``value`` names, which stands in ``row`` at ``steps``; raises `RejectedError`."""
        if isinstance(value, dict) and "frames" not in value:
            said = next((name for name in _SAID_BY if value.get(name) is not None), None)
            if said is not None:
                return self.find(value[said], kind, row, (*steps, said))
        if isinstance(value, str) and _is_base64(value):
            try:
                if not value.startswith("data:") and len(value) <= _MAX_PATH_CHARACTERS:
                    return media_ref(self.root, value, beside=self.beside, kind=kind)
            except RejectedError:
                pass  # no file has this name
            if row.locate is None:
                raise RejectedError(
                    "unsupported_media", f"{'.'.join(map(str, steps))}: a picture as text cannot be read here"
                )
            origin = f"{row.place}#{'.'.join(map(str, steps))}"[:_MAX_ORIGIN]
            return MediaRef(kind=kind or _data_kind(value), parts=(row.locate(steps),), origin=origin)
        if isinstance(value, str):
            return media_ref(self.root, value, beside=self.beside, kind=kind)
        return media_refs(self.root, [value], beside=self.beside, kind=kind)[0]


def names_nothing(value: object) -> bool:
    """Whether the ``value`` of a media field says that there is no medium: null, or what stands for it in texts."""
    return value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING)


def _is_of_medium(fields: dict[str, Any]) -> bool:
    """Whether a record whose ``data_id`` names its medium has one: unless its ``data_type`` is known to be text alone.

    SEED-Bench has the types ``image`` and ``video``. A record of an unknown type whose medium is not found is a reject.
    """
    types = [value for name, value in fields.items() if name.lower() == "data_type"]
    return not any(isinstance(value, str) and value.strip().lower() in _TEXT_TYPES for value in types)


def _entries(value: object) -> list[tuple[int | str | None, object]]:
    """What a field lists, each with its step in the field: a list, or an object by placeholder; else the field itself.

    MiniCPM-V writes ``{"<image_00>": "a.jpg", "<image_01>": "b.jpg"}``.
    """
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, dict) and value and all(map(_NUMBERED.fullmatch, value)):
        return sorted(value.items(), key=lambda entry: int(entry[0].strip("<image_>")))
    return [(None, value)]


def _is_base64(value: str) -> bool:
    """Whether ``value`` is a data URL, or may be base64 rather than a path."""
    if value[:5].lower() == "data:":
        return True
    return named_kind(value) is None and looks_like_base64(value[:_HEAD_CHARACTERS].encode("utf-8", "replace"))


def _data_kind(value: str) -> MediaKind:
    return "video" if value[:11].lower() == "data:video/" else "image"
