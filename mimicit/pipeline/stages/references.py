"""References to media as JSON: how the tables of a build store the place of a picture or clip."""

from __future__ import annotations

from typing import Any

import orjson

from mimicit.schema import canonical_json
from mimicit.sources.items import InArrow, InFile, InJson, InParquet, InTar, InText, Locator, MediaRef, Named


def locator_to_json(locator: Locator) -> list[Any]:
    """A locator as a short JSON list that names its kind first."""
    match locator:
        case InFile(path):
            return ["file", path]
        case InJson(path, offset, length):
            return ["json", path, offset, length]
        case InText(path, offset, length):
            return ["text", path, offset, length]
        case InParquet(path, row_group, row, column, item):
            return ["parquet", path, row_group, row, column, item]
        case InArrow(path, batch, row, column, item):
            return ["arrow", path, batch, row, column, item]
        case InTar(path, offset, size):
            return ["tar", path, offset, size]
        case Named(ids):
            return ["named", list(ids)]


def locator_from_json(value: list[Any]) -> Locator:
    """The inverse of `locator_to_json`."""
    match value:
        case ["file", path]:
            return InFile(path)
        case ["json", path, offset, length]:
            return InJson(path, offset, length)
        case ["text", path, offset, length]:
            return InText(path, offset, length)
        case ["parquet", path, row_group, row, column, item]:
            return InParquet(path, row_group, row, column, tuple(item) if isinstance(item, list) else item)
        case ["arrow", path, batch, row, column, item]:
            return InArrow(path, batch, row, column, tuple(item) if isinstance(item, list) else item)
        case ["tar", path, offset, size]:
            return InTar(path, offset, size)
        case ["named", ids]:
            return Named(tuple(ids))
    raise AssertionError(f"no locator: {value!r}")


def ref_to_json(ref: MediaRef) -> dict[str, Any]:
    """A media reference as JSON."""
    return {
        "kind": ref.kind,
        "parts": [locator_to_json(part) for part in ref.parts],
        "origin": ref.origin,
        "timestamps_s": None if ref.timestamps_s is None else list(ref.timestamps_s),
        "duration_s": ref.duration_s,
    }


def ref_text(value: dict[str, Any]) -> bytes:
    """The reference ``value`` as canonical JSON; `SchemaError` if JSON cannot hold it."""
    if value["timestamps_s"] is None and value["duration_s"] is None:
        try:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)  # no floats, so no NaN
        except orjson.JSONEncodeError:
            pass
    return canonical_json(value)


def ref_from_json(value: dict[str, Any]) -> MediaRef:
    """The inverse of `ref_to_json`."""
    timestamps = value["timestamps_s"]
    return MediaRef(
        kind=value["kind"],
        parts=tuple(locator_from_json(part) for part in value["parts"]),
        origin=value["origin"],
        timestamps_s=None if timestamps is None else tuple(timestamps),
        duration_s=value["duration_s"],
    )


def place_in_table(first: list[Any]) -> str:
    """A sort key for media in cells of tables: file, row group or batch, column, row and entry; empty for others.

    ``first`` is the first part of the reference.
    """
    if first[0] not in ("parquet", "arrow"):
        return ""
    _, path, group, row, column, item = first
    return f"{path} {group:012d} {column} {row:012d} {item if isinstance(item, int) else 0:012d}"
