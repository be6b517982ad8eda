"""``mimicit.toml``: the options of a build and the sources that it mixes, as ``schemas/mixture.json`` defines them.

::

    shots = 3
    media_root = { "/export/share/coco" = "images" }
    [filters]
    min_side = 64
    [options.mmc4]
    min_similarity = 0.2

    [[source]]
    path = "LA"
    limit = 100_000

    [[source]]
    path = "own/manifest.jsonl"
    weight = 0.5
    context = "same-media,random"
    filters = { max_aspect = 4 }
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import orjson

from mimicit.errors import SchemaError, UsageError
from mimicit.media.options import MediaOptions
from mimicit.pipeline.config import BuildConfig, SourceOptions
from mimicit.pipeline.similarity.options import SimilarOptions
from mimicit.pipeline.stages.filters import FilterConfig
from mimicit.schema import unknown_keys, validate
from mimicit.shards.files import read_regular
from mimicit.sources.base import OptionValue
from mimicit.sources.options import checked_options, parsed_option
from mimicit.toml_text import parse_toml

__all__ = ["MIXTURE_NAME", "build_config", "merged_media_roots", "merged_options", "read_mixture", "refuse_outside"]

MIXTURE_NAME: Final = "mimicit.toml"
_MIB: Final = 1024**2
_MAX_BYTES: Final = 4 * _MIB
_MEDIA_KEYS: Final = frozenset(field.name for field in fields(MediaOptions))
_SIMILAR_KEYS: Final = frozenset(field.name for field in fields(SimilarOptions))
_FILTERS: Final = asdict(FilterConfig())  # the defaults by name


def read_mixture(path: Path) -> dict[str, Any]:
    """The options in the TOML file ``path``, checked against the schema; `UsageError` names the file and the fault."""
    try:
        value = parse_toml(read_regular(path, most=_MAX_BYTES).decode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # also of text that is no UTF-8
        raise UsageError(f"{path}: no TOML: {error}") from None
    try:
        plain = orjson.loads(orjson.dumps(value))  # dates become text, and infinities null: both fail the schema
        _refuse_unknown_keys(plain)
        validate("mixture", plain)
    except (SchemaError, TypeError) as error:
        raise UsageError(f"{path}: {error}") from None
    options: dict[str, Any] = _whole_numbers(plain)
    return options


def build_config(options: Mapping[str, Any]) -> BuildConfig:
    """The `BuildConfig` of options as `read_mixture` returns them; what is absent takes its default.

    Filters may also be given directly, by the name that they have in ``filters``, and then win.
    """
    filters = {**options.get("filters", {}), **{key: options[key] for key in _FILTERS.keys() & options.keys()}}
    media = {key: options[key] for key in _MEDIA_KEYS & options.keys()}
    rest = {
        key: value
        for key, value in options.items()
        if key not in {*_MEDIA_KEYS, *_SIMILAR_KEYS, *_FILTERS, "filters", "options", "source", "shard_size"}
    }
    if "allow_root" in options:  # absolute, for tasks on other machines work in other folders
        rest["allow_root"] = tuple(os.path.abspath(folder) for folder in options["allow_root"])
    if "shard_size" in options:
        rest["shard_bytes"] = options["shard_size"] * _MIB
    return BuildConfig(
        **rest,
        media=MediaOptions(**media),
        similar=_similar_options({key: options[key] for key in _SIMILAR_KEYS & options.keys()}),
        filters=_filter_config(filters),
        options={name: checked_options(name, values) for name, values in options.get("options", {}).items()},
        sources=tuple(_source_options(entry, filters) for entry in options.get("source", ())),
    )


def merged_options(
    options: Mapping[str, Mapping[str, OptionValue]], given: Iterable[str]
) -> dict[str, dict[str, OptionValue]]:
    """The ``options`` of formats in a file with those ``given`` as ``FORMAT.NAME=VALUE``, which win."""
    merged = {format: dict(values) for format, values in options.items()}
    for text in given:
        format, name, value = parsed_option(text)
        merged.setdefault(format, {})[name] = value
    return merged


def merged_media_roots(roots: Mapping[str, str], given: Iterable[str]) -> dict[str, str]:
    """The ``media_root`` of a file with those ``given`` as ``OLD=NEW``, which win."""
    merged = dict(roots)
    for text in given:
        old, equals, new = text.rpartition("=")
        if not equals:
            raise UsageError(f"--media-root: {text!r} must be OLD=NEW, such as /export/share/coco=images")
        merged[old] = new
    return merged


def refuse_outside(options: Mapping[str, Any], path: Path) -> None:
    """`UsageError` where ``options``, which came with the data as ``path``, lead out of its folder or to the network.

    Whoever made the data may not choose what else of this machine is read. It takes an option on the command line, or
    the file itself as ``--config``.
    """
    src = os.path.realpath(path.parent)

    def refuse(option: str, value: str) -> None:
        raise UsageError(
            f"{path}: {option} = {value!r} leads out of --src, which a file that lies in it may not;"
            f" add --{option.replace('_', '-')} {value}, or --config {path}"
        )

    for folder in options.get("allow_root", ()):
        if not _lies_in(src, folder):
            refuse("allow_root", folder)
    for option in ("text_embedder", "image_embedder"):
        name, _, source = options.get(option, "").partition(":")
        place = source.partition(":")[2] if name == "open_clip" else source
        if source and not (os.path.exists(place) and _lies_in(src, place)):
            refuse(option, options[option])


def _lies_in(folder: str, path: str) -> bool:
    real = os.path.realpath(path)
    return real == folder or real.startswith(f"{folder.rstrip('/')}/")


def _source_options(entry: Mapping[str, Any], defaults: Mapping[str, Any]) -> SourceOptions:
    filters = _filter_config({**defaults, **entry["filters"]}) if "filters" in entry else None
    return SourceOptions(**{**entry, "filters": filters, "weight": float(entry.get("weight", 1))})


def _similar_options(values: Mapping[str, Any]) -> SimilarOptions:
    least = {"min_score": float(values["min_score"])} if "min_score" in values else {}
    return SimilarOptions(**{**values, **least})


def _filter_config(values: Mapping[str, Any]) -> FilterConfig:
    # A ratio written as 4 or 4.0 is one ratio, and must not look like another configuration.
    return FilterConfig(**{name: type(_FILTERS[name])(value) for name, value in values.items()})


def _refuse_unknown_keys(value: Any) -> None:
    """`SchemaError` with the known keys for one that the schema does not know: most likely a slip of the pen."""
    for place, key, known in unknown_keys("mixture", value):
        raise SchemaError(f"{place}: no key {key!r}; there are: {', '.join(sorted(known))}".removeprefix(": "))


def _whole_numbers(value: Any) -> Any:
    """``value`` with 5.0 as 5: JSON Schema takes both for an integer."""
    match value:
        case dict():
            return {key: _whole_numbers(part) for key, part in value.items()}
        case list():
            return [_whole_numbers(part) for part in value]
        case float() if value.is_integer():
            return int(value)
    return value
