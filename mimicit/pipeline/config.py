"""Every option of a build that shapes its bytes, and the fingerprint by which a rerun recognises its own work."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from mimicit.context.choose import parse_strategies
from mimicit.errors import UsageError
from mimicit.media import MediaOptions
from mimicit.options import about, check, option, same_option
from mimicit.pipeline.similarity import SimilarOptions
from mimicit.pipeline.stages.filters import FilterConfig

DuplicateTriplets = Literal["keep", "merge", "merge-all"]
FormatOptions = Mapping[str, float | tuple[str, ...]]

_MIB: Final = 1024**2
_MAX_DISTANCE: Final = 11  # bits; with more, a search would compare a large part of all pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRules:
    """The options that apply to one source: those of its entry in the mixture, or else those of the build.

    At most ``limit`` of its queries and about the share ``weight`` of them are drawn; the others are context only.
    ``context_from`` names another source that its context comes from.
    """

    shots: int
    context: str
    limit: int | None
    weight: float
    filters: FilterConfig
    context_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Options that shape the output; workers and engine are not among them, for they never change a byte."""

    shots: int = option(2, "Context triplets per sample, at most.", least=0)
    context: str = option(
        "auto",
        "Strategies in order: related, conversation, same-media, random, text-similar, image-similar, both;"
        " or auto, none.",
    )
    seed: int = option(0, "Seed by which context and queries are drawn.")
    format: str | None = option(None, "Read every text and table file as this format.", unset="detected for each file")
    shard_bytes: int = option(512 * _MIB, "MiB per shard, at most.", least=1024, key="shard_size", unit=_MIB)
    shard_samples: int = option(100_000, "Samples per shard, at most.", least=1)
    dedupe: bool = option(False, "Store each file once per shard, with hard links for the rest.")
    license: str = option("unknown", "License to state in the dataset card.")
    media: MediaOptions = field(default_factory=MediaOptions)
    limit: int | None = option(None, "Queries drawn per source, at most; the others are context only.", least=1)
    filters: FilterConfig = option(FilterConfig(), "What to leave out.")
    near_duplicates: int | None = option(
        None,
        "Bits of 64 by which fingerprints of pictures that count as one may differ; only the first keeps its records.",
        least=0,
        most=_MAX_DISTANCE,
        flag=False,
        unset="pictures are not compared",
    )
    duplicate_triplets: DuplicateTriplets = option(
        "keep",
        "Keep equal records, merge them within a source, or merge-all, across sources; turns are always kept.",
        flag=False,
    )
    sources: tuple[SourceOptions, ...] = option((), "Sources to build, in this order.", key="source", flag=False)
    options: Mapping[str, FormatOptions] = option(
        {}, "Option of one format, such as mmc4.min_similarity=0.2.", flag="--option", metavar="FORMAT.NAME=VALUE"
    )
    similar: SimilarOptions = field(default_factory=SimilarOptions)
    follow_links: bool = option(False, "Follow symbolic links that lead to --src or --allow-root.")
    allow_root: tuple[str, ...] = option((), "Folder outside --src that links may lead to.", metavar="FOLDER")
    media_root: Mapping[str, str] = option(
        {}, "Look for paths that begin with OLD in the folder NEW of --src.", metavar="OLD=NEW"
    )

    def __post_init__(self) -> None:
        check(self)
        parse_strategies(self.context)
        if self.allow_root and not self.follow_links:
            raise UsageError("--allow-root goes with --follow-links")
        if self.options:
            from mimicit.sources.registry import checked_options  # all formats, not needed by the help

            for format, values in self.options.items():
                checked_options(format, values)

    def rules(self, entry: SourceOptions | None = None) -> SourceRules:
        """The rules of a source of the mixture's ``entry``; None: of a source of a build without a mixture."""
        entry = entry or SourceOptions(path="")
        return SourceRules(
            shots=self.shots if entry.shots is None else entry.shots,
            context=self.context if entry.context is None else entry.context,
            limit=self.limit if entry.limit is None else entry.limit,
            weight=entry.weight,
            filters=self.filters if entry.filters is None else entry.filters,
            context_from=entry.context_from,
        )

    def to_json(self) -> dict[str, Any]:
        """The options as a JSON object, as the manifest stores them."""
        value = asdict(self)
        for source in value["sources"]:
            for name in ("context_from", "media_root"):  # older folders lack these fields
                if not source[name]:
                    del source[name]
        return value

    def fingerprint(self) -> str:
        """SHA-256 over the options, in hexadecimal."""
        from mimicit.schema import canonical_json  # not needed by the help

        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """One entry of a mixture: ``None`` means as the build has it (see `SourceRules`)."""

    path: str = field(metadata=about("File, folder or pattern (such as */train.json), relative to --src."))
    format: str | None = same_option(BuildConfig, "format")
    name: str | None = option(None, "Name of the source, for an entry of only one.", pattern="[a-z0-9_-]{1,80}")
    shots: int | None = same_option(BuildConfig, "shots")
    context: str | None = same_option(BuildConfig, "context")
    context_from: str | None = option(None, "Name of another source that context comes from.", unset="its own")
    limit: int | None = option(None, "Queries drawn, at most; the others are context only: with 0, all.", least=0)
    weight: float = option(1.0, "Share of its queries to draw; the others are context only.", above=0, most=1)
    filters: FilterConfig | None = same_option(BuildConfig, "filters")
    options: FormatOptions = option({}, "Options of its format, which win over those of the build.")
    media_root: Mapping[str, str] = option({}, "As for all sources, but for paths in this one; wins over those.")

    def __post_init__(self) -> None:
        check(self, f"source {self.path!r}")
        if self.context is not None:
            parse_strategies(self.context)


MEDIA_LIMITS: Final = ("max_memory_bytes", "max_seconds")
"""The media options that only limit decoding: if they are raised, every medium that passed stays as it was."""


def without_limits(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `BuildConfig.to_json`, without `MEDIA_LIMITS`."""
    media = {name: value for name, value in config["media"].items() if name not in MEDIA_LIMITS}
    return {**config, "media": media}
