"""Which field of a triplet a column of a table written by hand means: ``Question`` is the instruction.

The names are those that people and spreadsheets use, and that tables of `datasets` have. The names of the manifest
itself come first: beside them, another name for the same field is a free field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from mimicit.records import MediaKind

__all__ = ["MEDIA_FIELDS", "field_names"]

MEDIA_FIELDS: Final[Mapping[str, MediaKind | None]] = {"media": None, "image": None, "images": None, "video": "video"}
"""The names of the field that lists media, and the kind that the name says."""

_FIELDS: Final = ("id", "instruction", "answer", "related", "query", "meta", "document", *MEDIA_FIELDS)
_OTHER_NAMES: Final = {
    "instruction": ("question", "prompt"),
    "answer": ("response", "output", "caption", "text", "label"),
    "media": (
        *("file_name", "filename", "image_path", "image_file", "image_name", "video_path", "video_file", "media_path"),
        *("path", "file", "picture", "photo"),
    ),
}


def field_names(columns: Iterable[str]) -> dict[str, str]:
    """The field that each of ``columns`` stands for, by its name; a free field keeps its own.

    Capitals, and spaces or hyphens for ``_``, make no difference. No field is named twice.
    """
    written = list(columns)
    fields = {column: column for column in written if column in _FIELDS}
    for field in _FIELDS:
        _name(field, (field,), written, fields)
    for field, others in _OTHER_NAMES.items():
        if field != "media" or MEDIA_FIELDS.keys().isdisjoint(fields.values()):
            _name(field, others, written, fields)
    return {column: fields.get(column, column) for column in written}


def _name(field: str, names: Iterable[str], columns: Iterable[str], fields: dict[str, str]) -> None:
    """Note in ``fields`` the column with the first of ``names`` that one has, unless another is the field already."""
    free = {_plain(column): column for column in columns if column not in fields}
    found = next((free[name] for name in names if name in free), None)
    if found is not None and field not in fields.values():
        fields[found] = field


def _plain(column: str) -> str:
    return column.strip().casefold().replace(" ", "_").replace("-", "_")
