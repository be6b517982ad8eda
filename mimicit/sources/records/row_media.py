"""The media that a record names: by paths, as base64 text, or as data URLs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.containers.base64_text import looks_like_base64
from mimicit.sources.files.finding import media_refs
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.items import MediaRef, Row
from mimicit.sources.records.column_names import Columns

__all__ = ["MediaFinder"]

_MAX_PATH_CHARACTERS: Final = 4096
_HEAD_CHARACTERS: Final = 1024
_MAX_ORIGIN: Final = 1024
_SAID_BY: Final = ("bytes", "base64", "url", "path", "file_name", "image", "image_url", "video", "video_url", "data")


@dataclass(frozen=True, slots=True)
class MediaFinder:
    """Finds the media that the records of one file name, ``beside`` the folder of the file."""

    root: Root
    beside: str

    def of_row(self, row: Row, fields: dict[str, Any], columns: Columns) -> Iterator[MediaRef]:
        """The media in the media fields of ``row``, in their order; raises `RejectedError`."""
        for column, kind in columns.media:
            value = fields[column]
            for number, entry in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if number is not None or (entry is not None and entry != ""):
                    yield self.find(entry, kind, row, (column,) if number is None else (column, number))

    def find(self, value: object, kind: MediaKind | None, row: Row, steps: Sequence[str | int]) -> MediaRef:
        """The medium that ``value`` names, which stands in ``row`` where ``steps`` lead to; raises `RejectedError`."""
        if isinstance(value, dict) and "frames" not in value:
            said = next((name for name in _SAID_BY if value.get(name) is not None), None)
            if said is not None:
                return self.find(value[said], kind, row, (*steps, said))
        if isinstance(value, str) and _is_base64(value):
            try:
                if not value.startswith("data:") and len(value) <= _MAX_PATH_CHARACTERS:
                    return media_refs(self.root, [value], beside=self.beside, kind=kind)[0]
            except RejectedError:
                pass  # no file is called so
            if row.locate is None:
                raise RejectedError(
                    "unsupported_media", f"{'.'.join(map(str, steps))}: a picture as text cannot be read here"
                )
            origin = f"{row.place}#{'.'.join(map(str, steps))}"[:_MAX_ORIGIN]
            return MediaRef(kind=kind or _data_kind(value), parts=(row.locate(steps),), origin=origin)
        return media_refs(self.root, [value], beside=self.beside, kind=kind)[0]


def _is_base64(value: str) -> bool:
    """Whether ``value`` is a data URL, or may be base64 rather than a path."""
    if value[:5].lower() == "data:":
        return True
    return named_kind(value) is None and looks_like_base64(value[:_HEAD_CHARACTERS].encode("utf-8", "replace"))


def _data_kind(value: str) -> MediaKind:
    return "video" if value[:11].lower() == "data:video/" else "image"
