"""Samples as a pandas table, one row each: to look at, group and plot in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mimicit.errors import UsageError
from mimicit.prompt import render
from mimicit.records import Sample

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["to_pandas"]


def to_pandas(samples: Iterable[Sample]) -> pd.DataFrame:
    """One row per sample, its key as the index; media are counted, not copied.

    Columns: ``id``, ``source``, ``instruction`` and ``answer`` (of the query), ``context`` (triplets before it),
    ``relations`` and ``scores`` (lists, one per context triplet), ``images``, ``videos``, ``frames``, ``characters``
    and ``prompt``. All rows are held in memory: give a slice of a large folder, ``samples[:10_000]``. `UsageError`
    where pandas is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise UsageError("pandas is missing: pip install pandas") from None
    rows = [_row(sample) for sample in samples]
    return pd.DataFrame(rows, columns=["key", *_COLUMNS]).set_index("key")


_COLUMNS = (
    "id", "source", "instruction", "answer", "context", "relations", "scores",
    "images", "videos", "frames", "characters", "prompt",
)  # fmt: skip


def _row(sample: Sample) -> dict[str, Any]:
    kinds = [media.kind for media in sample.media]
    return {
        "key": sample.key,
        "id": sample.id,
        "source": sample.source,
        "instruction": sample.query.instruction,
        "answer": sample.query.answer,
        "context": len(sample.context),
        "relations": [triplet.relation for triplet in sample.context],
        "scores": [triplet.score for triplet in sample.context],
        "images": kinds.count("image"),
        "videos": kinds.count("video"),
        "frames": sum(len(media.files) for media in sample.media),
        "characters": sum(len(triplet.instruction) + len(triplet.answer) for triplet in sample.triplets),
        "prompt": render(sample),
    }
