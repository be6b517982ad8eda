"""The only reader of ``schemas/``: the JSON Schemas that define every file format on disk."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import orjson

from mimicit.errors import SchemaError, hint

_INT64: Final = 1 << 63


def names() -> tuple[str, ...]:
    """The names of the schemas there are, sorted (``"manifest"``, ``"reject"``, ``"sample"``, ...)."""
    return tuple(sorted(path.name.removesuffix(".json") for path in _folder().iterdir() if path.name.endswith(".json")))


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """The JSON Schema called ``name`` as a value; it must not be changed."""
    value: dict[str, Any] = orjson.loads((_folder() / f"{name}.json").read_bytes())
    return value


def validate(name: str, value: Any) -> None:
    """Check ``value`` against the schema ``name``; `SchemaError` names the place and the fault.

    More than JSON Schema asks: an integer is written as one (``4.0`` is none) and has at most 64 bits.
    """
    try:
        _validator(name)(value)
    except jsonschema_rs.ValidationError as error:
        place = "/".join(str(step) for step in error.instance_path) or "(top)"
        raise SchemaError(f"{place}: {error.message[:300]}") from None
    if (fault := _integer_fault(name)(value)) is not None:
        raise SchemaError(fault.removeprefix("/"))


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, UTF-8, no spaces, no NaN.

    `SchemaError` on values that JSON cannot hold (NaN, infinities, lone surrogates).
    """
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise SchemaError(f"not a JSON value: {error}") from None
    if b"null" in data and _has_nan(value):  # orjson writes null for NaN, so only then can there be one
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
    return Path(__file__).parents[1] / "schemas"  # a source checkout: schemas/ lies next to the package


@functools.cache
def _validator(name: str) -> Callable[[Any], None]:
    return jsonschema_rs.validator_for(schema(name)).validate


@functools.cache
def _integer_fault(name: str) -> Callable[[Any], str | None]:
    """Where a value that matches the schema ``name`` has an integer of another kind; it visits only what holds some."""
    whole = schema(name)

    def finder(definition: Any) -> Callable[[Any], str | None] | None:
        if not isinstance(definition, dict):
            return None
        if "$ref" in definition:
            return finder(whole["$defs"][definition["$ref"].rpartition("/")[2]])
        if "integer" in (kind := definition.get("type", ())) and "number" not in kind:
            return _fault_of_integer
        of_items, of_others = finder(definition.get("items")), finder(definition.get("additionalProperties"))
        of_keys = [(key, of_key) for key, part in definition.get("properties", {}).items() if (of_key := finder(part))]
        if not (of_items or of_others or of_keys):
            return None

        def find(value: Any) -> str | None:
            if type(value) is list:
                if of_items is not None:
                    for number, part in enumerate(value):
                        if (fault := of_items(part)) is not None:
                            return f"/{number}{fault}"
            elif type(value) is dict:
                for key, of_key in of_keys:
                    if key in value and (fault := of_key(value[key])) is not None:
                        return f"/{key}{fault}"
                if of_others is not None:
                    for key, part in value.items():
                        if (fault := of_others(part)) is not None:
                            return f"/{key}{fault}"
            return None

        return find

    return finder(whole) or (lambda value: None)


def _fault_of_integer(value: Any) -> str | None:
    if (type(value) is int and -_INT64 <= value < _INT64) or value is None:
        return None
    return f": {str(value)[:80]} is not written as an integer of 64 bits"


def refuse_unknown_keys(name: str, value: Any) -> None:
    """`SchemaError` for a key that the schema ``name`` does not know, with a hint at the known ones."""
    whole = schema(name)

    def refuse(part: Any, definition: Mapping[str, Any], place: str) -> None:
        if "$ref" in definition:
            definition = whole["$defs"][definition["$ref"].rpartition("/")[2]]
        if isinstance(part, list):
            for number, entry in enumerate(part):
                refuse(entry, definition.get("items", {}), f"{place}[{number}]")
        elif isinstance(part, dict) and "properties" in definition:
            known = definition["properties"]
            for key, inner in part.items():
                if key not in known:
                    raise SchemaError(f"{place}: no key {key!r}; {hint(key, sorted(known))}".removeprefix(": "))
                refuse(inner, known[key], f"{place}.{key}".removeprefix("."))

    refuse(value, whole, "")
