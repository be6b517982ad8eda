"""Every option of a build that shapes its bytes, and the fingerprint by which a rerun recognises its own work."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

from mimicit.context.choose import parse_strategies
from mimicit.errors import UsageError
from mimicit.media.options import MediaOptions
from mimicit.schema import canonical_json

__all__ = ["BuildConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Options that shape the output; workers and engine are not among them, for they never change a byte.

    ``shots`` is the largest number of context triplets; ``context`` names the strategies in order (see
    `mimicit.context.choose.parse_strategies`); a shard is closed before it exceeds ``shard_bytes`` or
    ``shard_samples``; ``license`` is stated in the card.
    """

    shots: int = 2
    context: str = "auto"
    seed: int = 0
    format: str | None = None
    shard_bytes: int = 512 * 1024**2
    shard_samples: int = 100_000
    license: str = "unknown"
    media: MediaOptions = field(default_factory=MediaOptions)

    def __post_init__(self) -> None:
        parse_strategies(self.context)
        limits = (
            ("--shots", self.shots, 0),
            ("--size", self.media.size, 0),
            ("--frames", self.media.frames, 1),
            ("--quality", self.media.quality, 1),
            ("--max-pixels", self.media.max_pixels, 1),
            ("--shard-size", self.shard_bytes, 1024),
        )
        for name, value, least in limits:
            if value < least:
                raise UsageError(f"{name}: {value} is too small; the least is {least}")
        if self.media.quality > 100:
            raise UsageError(f"--quality: {self.media.quality} is more than 100")

    def to_json(self) -> dict[str, Any]:
        """The options as a JSON object, as the manifest stores them."""
        return asdict(self)

    def fingerprint(self) -> str:
        """SHA-256 over the options, in hexadecimal."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()
