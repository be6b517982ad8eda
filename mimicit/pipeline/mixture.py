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
from mimicit.media import MediaOptions
from mimicit.options import configured, parse_toml
from mimicit.pipeline.config import MEDIA_LIMITS, BuildConfig, SourceOptions
from mimicit.pipeline.stages.filters import FilterConfig
from mimicit.schema import refuse_unknown_keys, validate
from mimicit.shards.files import read_regular
from mimicit.sources.format import OptionValue
from mimicit.sources.registry import checked_options, parsed_option

MIXTURE_NAME: Final = "mimicit.toml"
_MAX_BYTES: Final = 4 << 20
_FILTERS: Final = frozenset(field.name for field in fields(FilterConfig))


def read_mixture(path: Path) -> dict[str, Any]:
    """The options in the TOML file ``path``, checked against the schema; `UsageError` names the file and the fault."""
    try:
        value = parse_toml(read_regular(path, most=_MAX_BYTES).decode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # also if the text is not UTF-8
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    try:
        plain = orjson.loads(orjson.dumps(value))  # dates become text, and infinities null: both fail the schema
        refuse_unknown_keys("mixture", plain)
        options: dict[str, Any] = _whole_numbers(plain)
        validate("mixture", options)
    except (SchemaError, TypeError) as error:
        raise UsageError(f"{path}: {error}") from None
    return options


def build_config(options: Mapping[str, Any]) -> BuildConfig:
    """The `BuildConfig` of options as `read_mixture` returns them; missing options take their defaults.

    Filters may also be given directly, by the name that they have in ``filters``, and then take precedence.
    """
    chosen = dict(options)
    filters = {**options.get("filters", {}), **{key: options[key] for key in _FILTERS & options.keys()}}
    if "allow_root" in options:  # absolute, as tasks on other machines have other working folders
        chosen["allow_root"] = [os.path.abspath(folder) for folder in options["allow_root"]]
    chosen["options"] = {name: checked_options(name, values) for name, values in options.get("options", {}).items()}
    chosen["source"] = [_source_options(entry, filters) for entry in options.get("source", ())]
    config: BuildConfig = configured(BuildConfig, chosen)
    return config


def merged_options(
    options: Mapping[str, Mapping[str, OptionValue]], given: Iterable[str]
) -> dict[str, dict[str, OptionValue]]:
    """The ``options`` of formats in a file, overridden by those ``given`` as ``FORMAT.NAME=VALUE``."""
    merged = {format: dict(values) for format, values in options.items()}
    for text in given:
        format, name, value = parsed_option(text)
        merged.setdefault(format, {})[name] = value
    return merged


def merged_media_roots(roots: Mapping[str, str], given: Iterable[str]) -> dict[str, str]:
    """The ``media_root`` of a file, overridden by those ``given`` as ``OLD=NEW``."""
    merged = dict(roots)
    for text in given:
        old, equals, new = text.rpartition("=")
        if not equals:
            raise UsageError(f"--media-root: {text!r} must be OLD=NEW, such as /export/share/coco=images")
        merged[old] = new
    return merged


def refuse_outside(options: Mapping[str, Any], path: Path) -> None:
    """`UsageError` if ``options``, which came with the data as ``path``, lead out of its folder or to the network.

    Nor may they raise what a medium may take. The authors of the data may not choose what else of this machine is read
    or used up. Only the user may, by an option on the command line, or with the file itself as ``--config``.
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
        name, _, place = options.get(option, "").partition(":")
        # The tokenizers of many architectures of open_clip are on the Hub, whatever file has the weights.
        if place and (name == "open_clip" or not (os.path.exists(place) and _lies_in(src, place))):
            refuse(option, options[option])
    usual = asdict(MediaOptions())
    for option in ("max_pixels", *MEDIA_LIMITS):
        if options.get(option, 0) > usual[option]:
            raise UsageError(
                f"{path}: {option} = {options[option]} is more than the usual {usual[option]}, which a file that lies"
                f" in --src may not ask for; add --config {path}"
            )


def _lies_in(folder: str, path: str) -> bool:
    real = os.path.realpath(path)
    return real == folder or real.startswith(f"{folder.rstrip('/')}/")


def _source_options(entry: Mapping[str, Any], filters: Mapping[str, Any]) -> SourceOptions:
    own = {"filters": {**filters, **entry["filters"]}} if "filters" in entry else {}
    options: SourceOptions = configured(SourceOptions, {**entry, **own})
    return options


def _whole_numbers(value: Any) -> Any:
    """``value`` with 5.0 as 5, which is no integer for `validate`."""
    match value:
        case dict():
            return {key: _whole_numbers(part) for key, part in value.items()}
        case list():
            return [_whole_numbers(part) for part in value]
        case float() if value.is_integer():
            return int(value)
    return value
