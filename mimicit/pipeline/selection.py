"""Select which detected sources are built, and by which rules: all of them, or those that a mixture lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from mimicit.context.choose import OWN_SOURCE, parse_strategies
from mimicit.errors import SourceError, UsageError, hint
from mimicit.pipeline.config import BuildConfig, SourceOptions, SourceRules
from mimicit.sources import Detection
from mimicit.sources.format import SourceSpec
from mimicit.sources.registry import checked_options


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
