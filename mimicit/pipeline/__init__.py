"""The build: raw files in, a folder of shards out.

`build_shards` and what it needs are loaded on first use: the command line is declared by `BuildConfig` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mimicit.pipeline.config import BuildConfig

if TYPE_CHECKING:
    from mimicit.pipeline.run import BuildResult, build_shards

__all__ = ["BuildConfig", "BuildResult", "build_shards"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mimicit.pipeline import run

    return getattr(run, name)
