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

`select_sources` selects which detected sources are built, and by which rules: all of them, or those that are listed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import orjson

from mimicit.context.choose import OWN_SOURCE, parse_strategies
from mimicit.errors import SchemaError, SourceError, UsageError, hint
from mimicit.media import MediaOptions
from mimicit.options import configured, parse_toml
from mimicit.pipeline.config import MEDIA_LIMITS, BuildConfig, SourceOptions, SourceRules
from mimicit.pipeline.stages.filters import FilterConfig
from mimicit.schema import refuse_unknown_keys, validate
from mimicit.shards.files import read_regular
from mimicit.sources import Detection
from mimicit.sources.format import OptionValue, SourceSpec
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The sources of a build in order, and the rules of each by its name; the mixture does not list ``left_out``.

    ``unused``, ``unnamed_media`` and ``skipped`` are as in `Detection`; files of sources that are left out count as
    unused, unless a source of the build was made from them.
    """

    specs: tuple[SourceSpec, ...]
    rules: Mapping[str, SourceRules]
    left_out: tuple[SourceSpec, ...]
    unused: tuple[str, ...]
    unnamed_media: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def select_sources(config: BuildConfig, detected: Callable[[str | None], Detection]) -> Selection:
    """The sources that ``config`` selects; ``detected(format)`` detects sources, of that format if it is not None.

    A source belongs to the first entry that one of its files matches. `UsageError` if two sources have one name, or an
    entry gives its name to several; `SourceError` for an entry without a source.
    """
    detection = detected(config.format)
    if not config.sources:
        return Selection(
            specs=tuple(_with_options(config, spec) for spec in detection.sources),
            rules={spec.name: _rules(config, spec) for spec in detection.sources},
            left_out=(),
            unused=detection.unused,
            unnamed_media=detection.unnamed_media,
            skipped=detection.skipped,
        )
    specs: list[SourceSpec] = []
    rules: dict[str, SourceRules] = {}
    taken: set[str] = set()
    for entry in config.sources:
        found = detection if entry.format is None else detected(entry.format)
        mine = [spec for spec in found.sources if _matches(spec, entry.path) and spec.files[0] not in taken]
        for spec in _named(mine, entry, found):
            if spec.name in rules:
                raise UsageError(f"two sources are called {spec.name!r}; give the one at {entry.path!r} another name")
            specs.append(_with_options(config, spec, entry))
            rules[spec.name] = _rules(config, spec, entry)
            taken.add(spec.files[0])  # the other files may be pictures that two sources share
    left_out = tuple(spec for spec in detection.sources if spec.files[0] not in taken)
    made_from = tuple(spec.made_from for spec in specs if spec.made_from)
    unused = {*detection.unused, *_files(left_out)} - _files(specs)
    return Selection(
        specs=tuple(specs),
        rules={name: _lent(name, rule, rules) for name, rule in rules.items()},
        left_out=left_out,
        unused=tuple(sorted(path for path in unused if not path.startswith(made_from))),
        unnamed_media=detection.unnamed_media,
        skipped=detection.skipped,
    )


def _rules(config: BuildConfig, spec: SourceSpec, entry: SourceOptions | None = None) -> SourceRules:
    """The rules of ``spec``; the publisher's limit applies if no other is set."""
    rules = config.rules(entry)
    return rules if rules.limit is not None else replace(rules, limit=spec.limit)


def _lent(name: str, rule: SourceRules, rules: Mapping[str, SourceRules]) -> SourceRules:
    """``rule`` of the source ``name``, with strategies that work on the other source that its context comes from."""
    other = rule.context_from
    if other is None:
        return rule
    if other == name or other not in rules:
        names = sorted(rules.keys() - {name})
        raise UsageError(f"source {name!r}: context_from = {other!r} is no other source; {hint(other, names)}")
    if rule.context == "auto":
        return replace(rule, context="random")
    if own := [one for one in parse_strategies(rule.context) if one in OWN_SOURCE]:
        raise UsageError(
            f"source {name!r}: context {own[0]!r} is found in its own source alone; with context_from, give random, "
            "text-similar, image-similar or both"
        )
    return rule


def _with_options(config: BuildConfig, spec: SourceSpec, entry: SourceOptions | None = None) -> SourceSpec:
    """``spec`` with the options of its format; `UsageError` if ``entry`` has one that the format does not know."""
    given = entry.options if entry else {}
    try:
        own = checked_options(spec.format, given)
    except UsageError as error:
        raise UsageError(f"source {spec.files[0]!r}: {error}") from None
    media_roots = {**spec.media_roots, **(entry.media_root if entry else {})}
    return replace(spec, options={**config.options.get(spec.format, {}), **own}, media_roots=media_roots)


def _files(specs: Iterable[SourceSpec]) -> set[str]:
    return {path for spec in specs for path in (*spec.files, *spec.beside)}


def _named(mine: list[SourceSpec], entry: SourceOptions, found: Detection) -> Iterator[SourceSpec]:
    if not mine:
        there = ", ".join(sorted(spec.files[0] for spec in found.sources)[:5]) or "nothing"
        raise SourceError(f"{entry.path}: the mixture lists it, but no source is left there; found: {there}")
    if entry.name is not None and len(mine) > 1:
        raise UsageError(f"source {entry.path!r}: name {entry.name!r} is given to {len(mine)} sources; narrow the path")
    for spec in mine:
        yield spec if entry.name is None else replace(spec, name=entry.name)


def _matches(spec: SourceSpec, path: str) -> bool:
    """Whether a file of ``spec`` is ``path``, lies beneath it, or fits it as a pattern."""
    clean = path.removeprefix("./").rstrip("/")
    if clean in ("", "."):
        return True
    return any(file == clean or file.startswith(f"{clean}/") or fnmatchcase(file, clean) for file in spec.files)
