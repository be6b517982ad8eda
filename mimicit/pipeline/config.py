"""Every option of a build that shapes its bytes, and the fingerprint by which a rerun recognises its own work."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

from mimicit.context.choose import parse_strategies
from mimicit.errors import UsageError
from mimicit.media.options import MediaOptions
from mimicit.pipeline.similarity.options import SimilarOptions
from mimicit.pipeline.stages.filters import FilterConfig
from mimicit.schema import canonical_json
from mimicit.sources.base import OptionValue
from mimicit.sources.options import checked_options

__all__ = ["BuildConfig", "DuplicateTriplets", "SourceOptions", "SourceRules"]


DuplicateTriplets = Literal["keep", "merge", "merge-all"]

_NAME: Final = re.compile(r"[a-z0-9_-]{1,80}")
_MAX_DISTANCE: Final = 11  # bits; a search for more would look at a large part of all pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRules:
    """The options that hold for one source: those of its entry in the mixture, or else those of the build.

    At most ``limit`` of its queries and about the share ``weight`` of them are drawn; the others are context only.
    """

    shots: int
    context: str
    limit: int | None
    weight: float
    filters: FilterConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """One entry of a mixture: the sources at ``path`` (a file, a folder, or a pattern such as ``*/train.json``).

    ``format`` reads them as that format, ``name`` names the only one, ``options`` are those of the format, which win
    over the build's; the rest is as in `SourceRules`, where ``None`` means: as the build has it.
    """

    path: str
    format: str | None = None
    name: str | None = None
    shots: int | None = None
    context: str | None = None
    limit: int | None = None
    weight: float = 1.0
    filters: FilterConfig | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = f"source {self.path!r}"
        if self.context is not None:
            parse_strategies(self.context)
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise UsageError(f"{place}: name {self.name!r} must be 1 to 80 of a-z, 0-9, _ and -")
        if not 0 < self.weight <= 1:
            raise UsageError(f"{place}: weight {self.weight} must be more than 0 and at most 1")
        for name, value, least in (("limit", self.limit, 1), ("shots", self.shots, 0)):
            if value is not None and value < least:
                raise UsageError(f"{place}: {name} {value} is too small; the least is {least}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Options that shape the output; workers and engine are not among them, for they never change a byte.

    ``shots`` is the largest number of context triplets; ``context`` names the strategies in order (see
    `mimicit.context.choose.parse_strategies`); a shard is closed before it exceeds ``shard_bytes`` or
    ``shard_samples``; with ``dedupe`` it holds each file once, and hard links for the rest; ``license`` is stated in
    the card.

    ``limit`` is the largest number of queries drawn from each source. ``near_duplicates`` is the distance in bits (of
    64) up to which pictures count as the same, and ``None`` compares no pictures. ``duplicate_triplets`` that show and
    say the same are all kept, merged within their source, or merged across sources. ``sources``, where there are any,
    are the only ones that are built; their order is that of the samples. ``options`` are those of single formats, by
    the name of the format (see `mimicit.sources.options`); ``similar`` those of the strategies that compare triplets.

    ``follow_links`` reads what symbolic links lead to, in ``--src`` or in the folders ``allow_root``. ``media_root``
    has beginnings of paths in records, and the folder beneath ``--src`` that each stands for.
    """

    shots: int = 2
    context: str = "auto"
    seed: int = 0
    format: str | None = None
    shard_bytes: int = 512 * 1024**2
    shard_samples: int = 100_000
    dedupe: bool = False
    license: str = "unknown"
    media: MediaOptions = field(default_factory=MediaOptions)
    limit: int | None = None
    filters: FilterConfig = field(default_factory=FilterConfig)
    near_duplicates: int | None = None
    duplicate_triplets: DuplicateTriplets = "keep"
    sources: tuple[SourceOptions, ...] = ()
    options: Mapping[str, Mapping[str, OptionValue]] = field(default_factory=dict)
    similar: SimilarOptions = field(default_factory=SimilarOptions)
    follow_links: bool = False
    allow_root: tuple[str, ...] = ()
    media_root: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parse_strategies(self.context)
        if self.allow_root and not self.follow_links:
            raise UsageError("--allow-root goes with --follow-links")
        for format, values in self.options.items():
            checked_options(format, values)
        limits = (
            ("--shots", self.shots, 0),
            ("--size", self.media.size, 0),
            ("--frames", self.media.frames, 1),
            ("--quality", self.media.quality, 1),
            ("--max-pixels", self.media.max_pixels, 1),
            ("--max-seconds", self.media.max_seconds, 1),
            ("--shard-size", self.shard_bytes, 1024),
            ("--shard-samples", self.shard_samples, 1),
            ("--min-side", self.filters.min_side, 0),
            ("--max-aspect", self.filters.max_aspect, 0),
            ("--limit", self.limit, 1),
            ("near_duplicates", self.near_duplicates, 0),
        )
        for name, value, least in limits:
            if value is not None and value < least:
                raise UsageError(f"{name}: {value} is too small; the least is {least}")
        if self.media.quality > 100:
            raise UsageError(f"--quality: {self.media.quality} is more than 100")
        if self.near_duplicates is not None and self.near_duplicates > _MAX_DISTANCE:
            raise UsageError(f"near_duplicates: {self.near_duplicates} is more than {_MAX_DISTANCE} bits")
        if self.duplicate_triplets not in get_args(DuplicateTriplets):
            known = ", ".join(get_args(DuplicateTriplets))
            raise UsageError(f"duplicate_triplets: no choice {self.duplicate_triplets!r}; there are: {known}")

    def rules(self, entry: SourceOptions | None = None) -> SourceRules:
        """What holds for a source of the mixture's ``entry``, or for a source of a build without a mixture."""
        entry = entry or SourceOptions(path="")
        return SourceRules(
            shots=self.shots if entry.shots is None else entry.shots,
            context=self.context if entry.context is None else entry.context,
            limit=self.limit if entry.limit is None else entry.limit,
            weight=entry.weight,
            filters=self.filters if entry.filters is None else entry.filters,
        )

    def to_json(self) -> dict[str, Any]:
        """The options as a JSON object, as the manifest stores them."""
        return asdict(self)

    def fingerprint(self) -> str:
        """SHA-256 over the options, in hexadecimal."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()


MEDIA_LIMITS: Final = ("max_memory_bytes", "max_seconds")
"""The media options that only say when decoding is given up: higher ones leave every sound medium as it was."""


def without_limits(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `BuildConfig.to_json`, without `MEDIA_LIMITS`."""
    media = {name: value for name, value in config["media"].items() if name not in MEDIA_LIMITS}
    return {**config, "media": media}
