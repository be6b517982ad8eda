"""What ``mimicit annotate`` leaves around the manifest that it writes: not data, and not unused either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mimicit.sources.files.media_names import folder_of
from mimicit.sources.sniff import Fields, Head

__all__ = ["around_annotated", "is_annotated"]

_BESIDE: Final = ("rejects.jsonl", "report.html")
_ORIGINAL: Final = "media"
_STAMPS: Final = ("recipe_sha256", "request")


def is_annotated(fields: Fields) -> bool:
    """Whether a record says by which recipe and request it was written."""
    return any(all(f"{where}{stamp}" in fields for stamp in _STAMPS) for where in ("", "meta."))


def around_annotated(heads: Mapping[str, Head], path: str) -> tuple[tuple[str, ...], str]:
    """For the file at ``path``: the files that only describe its run, and the folder that it was written from.

    Both are empty where the file was not written by ``mimicit annotate``.
    """
    if path.rpartition("/")[2] != "manifest.jsonl" or not heads[path].any(is_annotated):
        return (), ""
    folder = folder_of(path)
    beside = tuple(name for name in (f"{folder}/{known}".lstrip("/") for known in _BESIDE) if name in heads)
    return beside, f"{folder}/{_ORIGINAL}/".lstrip("/")
