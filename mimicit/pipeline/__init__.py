"""The build: raw files in, a folder of shards out."""

from mimicit.pipeline.config import BuildConfig
from mimicit.pipeline.run import BuildResult, build_shards

__all__ = ["BuildConfig", "BuildResult", "build_shards"]
