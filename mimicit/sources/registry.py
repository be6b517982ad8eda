"""The formats that sources are read in; a new one is a file of its own and a line here."""

from __future__ import annotations

from typing import Final

from mimicit.sources.base import SourceFormat
from mimicit.sources.folder import FOLDER
from mimicit.sources.llava import LLAVA
from mimicit.sources.manifest import MANIFEST
from mimicit.sources.mimicit import MIMICIT

__all__ = ["SOURCES"]

SOURCES: Final[dict[str, SourceFormat]] = {
    "mimicit": MIMICIT,
    "llava": LLAVA,
    # Before the manifest: a list of triplets named like the picture beside it is that picture's sidecar.
    "folder": FOLDER,
    "manifest": MANIFEST,
}
"""The formats by name, in the order in which they are asked for the files of ``--src``; the most telling first."""
