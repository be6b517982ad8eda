"""mimicit: build, inspect and load multi-modal in-context instruction data.

The names below are loaded when they are first used, so that importing the package, and the command line's help, stay
fast and free of heavy libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimicit.errors import MimicitError
    from mimicit.hub.from_datasets import from_datasets
    from mimicit.hub.tables import to_datasets
    from mimicit.loading import ChatCollator, Quarantine, Samples, Where, load, load_mixture, messages, pack
    from mimicit.loading.interop import from_webdataset, to_pandas, to_webdataset
    from mimicit.pipeline import BuildConfig, build_shards
    from mimicit.prompt import render
    from mimicit.records import Media, Sample, Triplet

__all__ = [
    "BuildConfig",
    "ChatCollator",
    "Media",
    "MimicitError",
    "Quarantine",
    "Sample",
    "Samples",
    "Triplet",
    "Where",
    "build_shards",
    "from_datasets",
    "from_webdataset",
    "load",
    "load_mixture",
    "messages",
    "pack",
    "render",
    "to_datasets",
    "to_pandas",
    "to_webdataset",
]

_HOMES = {
    "BuildConfig": "mimicit.pipeline.config",
    "ChatCollator": "mimicit.loading.chat",
    "Media": "mimicit.records",
    "MimicitError": "mimicit.errors",
    "Quarantine": "mimicit.loading.quarantine",
    "Sample": "mimicit.records",
    "Samples": "mimicit.loading.samples",
    "Triplet": "mimicit.records",
    "Where": "mimicit.loading.samples",
    "build_shards": "mimicit.pipeline.run",
    "from_datasets": "mimicit.hub.from_datasets",
    "from_webdataset": "mimicit.loading.interop",
    "load": "mimicit.loading.samples",
    "load_mixture": "mimicit.loading.mixture",
    "messages": "mimicit.loading.conversation",
    "pack": "mimicit.loading.packing",
    "render": "mimicit.prompt",
    "to_datasets": "mimicit.hub.tables",
    "to_pandas": "mimicit.loading.interop",
    "to_webdataset": "mimicit.loading.interop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
