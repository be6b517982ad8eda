"""The only reader of ``schemas/``: the JSON Schemas that define every file format on disk."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson

from mimicit.errors import SchemaError

__all__ = ["canonical_json", "names", "null_for_nan", "schema", "unknown_keys", "validate"]


def names() -> tuple[str, ...]:
    """The names of the schemas there are, sorted (``"manifest"``, ``"reject"``, ``"sample"``, ...)."""
    return tuple(sorted(path.name.removesuffix(".json") for path in _folder().iterdir() if path.name.endswith(".json")))


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """The JSON Schema called ``name`` as a value; it must not be changed."""
    value: dict[str, Any] = orjson.loads((_folder() / f"{name}.json").read_bytes())
    return value


def validate(name: str, value: Any) -> None:
    """Check ``value`` against the schema ``name``; `SchemaError` names the place and the fault."""
    try:
        _validator(name)(value)
    except jsonschema_rs.ValidationError as error:
        place = "/".join(str(step) for step in error.instance_path) or "(top)"
        raise SchemaError(f"{place}: {error.message[:300]}") from None


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, UTF-8, no spaces, no NaN.

    `SchemaError` on values that JSON cannot hold (NaN, infinities, lone surrogates).
    """
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise SchemaError(f"not a JSON value: {error}") from None
    if b"null" in data and _has_nan(value):  # orjson writes null for them, so only then it is worth a look
        raise SchemaError("not a JSON value: NaN or infinity")
    return data


def null_for_nan(value: Any) -> Any:
    """``value`` with null in place of each NaN and infinity, which JSON cannot hold."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: null_for_nan(part) for key, part in value.items()}
        case list() | tuple():
            return [null_for_nan(part) for part in value]
    return value


def _has_nan(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, default=str)  # walks in C
    except ValueError:
        return True
    return False


def _folder() -> Any:
    packaged = resources.files("mimicit") / "schemas"
    if packaged.is_dir():
        return packaged
    return Path(__file__).parents[1] / "schemas"  # a source checkout: schemas/ lies beside the package


@functools.cache
def _validator(name: str) -> Callable[[Any], None]:
    return jsonschema_rs.validator_for(schema(name)).validate


def unknown_keys(name: str, value: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(place, key, the known keys there) of every key of ``value`` that the schema ``name`` does not know, in order."""
    whole = schema(name)

    def within(part: Any, definition: Mapping[str, Any], place: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        if "$ref" in definition:
            definition = whole["$defs"][definition["$ref"].rpartition("/")[2]]
        if isinstance(part, list):
            for number, entry in enumerate(part):
                yield from within(entry, definition.get("items", {}), f"{place}[{number}]")
        elif isinstance(part, dict) and "properties" in definition:
            known = definition["properties"]
            for key, inner in part.items():
                if key not in known:
                    yield place, key, known
                else:
                    yield from within(inner, known[key], f"{place}.{key}".removeprefix("."))

    yield from within(value, whole, "")
