"""The formats that shards are exported to; a new one is a file of its own and a line here, or comes with a package."""

from __future__ import annotations

from typing import Final

from mimicit import plugins
from mimicit.exporting.base import Exporter
from mimicit.exporting.datasets import export_datasets
from mimicit.exporting.files import export_files
from mimicit.exporting.llava import export_llava
from mimicit.exporting.mimicit import export_mimicit
from mimicit.exporting.mmc4 import export_mmc4

__all__ = ["EXPORTERS"]

_OURS: Final[dict[str, Exporter]] = {
    "datasets": export_datasets,
    "files": export_files,
    "llava": export_llava,
    "mimicit": export_mimicit,
    "mmc4": export_mmc4,
}

EXPORTERS: Final[dict[str, Exporter]] = {**_OURS, **plugins.added(plugins.EXPORTERS, None, _OURS)}
"""By the name on the command line."""
