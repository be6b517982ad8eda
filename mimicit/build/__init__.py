"""The build: raw files in, a folder of shards out."""

from mimicit.build.config import BuildConfig
from mimicit.build.run import BuildResult, build_shards

__all__ = ["BuildConfig", "BuildResult", "build_shards"]
