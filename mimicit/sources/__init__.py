"""Raw corpora in their published formats: `detect` finds the sources in a folder, `SOURCES` knows how to read each."""

from __future__ import annotations

from mimicit.sources.detect import Detection, detect
from mimicit.sources.registry import SOURCES

__all__ = ["SOURCES", "Detection", "detect"]
