"""Options of a single format, such as the thresholds of MMC4: numbers and lists of texts that a user may set.

A format declares them as a dataclass of `mimicit.options.option` (see `SourceFormat.options`). What the user has set is
in the `SourceSpec` that is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from mimicit.errors import UsageError, hint
from mimicit.options import Option, check, options_of
from mimicit.sources.format import OptionValue
from mimicit.sources.registry import SOURCES


def declared_options(format: str) -> dict[str, Option]:
    """The options of ``format`` by name; none if there is no such format."""
    declared = SOURCES[format].options if format in SOURCES else None
    return {} if declared is None else {option.key: option for _, option in options_of(declared)}


def checked_options(format: str, values: Mapping[str, object]) -> dict[str, OptionValue]:
    """``values`` as options of ``format``, sorted by name, each of the type of its default.

    `UsageError` if there is no such format or option, or the option does not take the value.
    """
    if format not in SOURCES:
        raise UsageError(f"options: no format {format!r}; {hint(format, sorted(SOURCES))}")
    known = declared_options(format)
    for name in values:
        if name not in known:
            there = hint(name, sorted(known)) if known else "it has none"
            raise UsageError(f"options: the format {format} has no option {name!r}; {there}")
    checked = {name: _of_kind(known[name].kind, f"{format}.{name}", values[name]) for name in sorted(values)}
    if (declared := SOURCES[format].options) is not None:
        check(declared(**checked), f"options: {format}")
    return checked


def parsed_option(text: str) -> tuple[str, str, OptionValue]:
    """(format, name, value) of ``FORMAT.NAME=VALUE``, as the command line takes it; `UsageError` for another form.

    A list of texts is written with commas between them, or as a JSON list.
    """
    place, equals, value = text.partition("=")
    format, dot, name = (part.strip() for part in place.partition("."))
    if not equals or not dot or not name:
        raise UsageError(f"--option: {text!r} is not FORMAT.NAME=NUMBER, such as mmc4.min_similarity=0.2")
    known = declared_options(format)
    if name in known and known[name].kind not in (int, float):
        return format, name, _texts(f"{format}.{name}", _listed(value))
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"--option: {text!r} is not FORMAT.NAME=NUMBER, such as mmc4.min_similarity=0.2")
    return format, name, number


def _listed(text: str) -> object:
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _of_kind(kind: Any, place: str, value: object) -> OptionValue:
    if kind not in (int, float):
        return _texts(place, value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"options: {place} must be a number, not {value!r}")
    if kind is int and value != int(value):
        raise UsageError(f"options: {place} must be a whole number, not {value!r}")
    return kind(value)  # type: ignore[no-any-return]


def _texts(place: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) and text for text in value):
        raise UsageError(f"options: {place} must be a list of texts, not {value!r}")
    return tuple(value)
