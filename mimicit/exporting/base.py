"""What every target format is: a function from a stream of samples to a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mimicit.records import Sample

__all__ = ["Exporter", "Written", "is_document"]


@dataclass(slots=True, kw_only=True)
class Written:
    """What an export has written: ``records`` of the format, ``media`` files or entries, and what could not be held.

    ``lost`` counts in words, such as ``{"documents": 3}``.
    """

    records: int = 0
    media: int = 0
    lost: Counter[str] = field(default_factory=Counter)


class Exporter(Protocol):
    """Writes samples as one format; holds one of them at a time in memory."""

    def __call__(self, samples: Iterable[Sample], folder: Path, scratch: Path) -> Written:
        """Write all ``samples`` into the empty ``folder``; ``scratch`` is an empty folder that is thrown away."""
        ...


def is_document(sample: Sample) -> bool:
    """Whether ``sample`` is an interleaved web document: chunks of text without questions."""
    return sample.query.relation == "document"
