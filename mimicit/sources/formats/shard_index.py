"""The samples of one source of a finished folder, by its ``index.parquet``: no tar is read from end to end for them.

The index is as little to be trusted as any other input. It must list as many samples of each shard as the manifest
says, so that none is missed; that it tells the truth of a sample is checked when the sample is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.parquet import parquet_columns, parquet_rows
from mimicit.sources.containers.tar_members import TarMember
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root

__all__ = ["IndexedSample", "indexed_samples"]

_COLUMNS: Final = ("shard", "key", "source", "member_offsets", "member_sizes")


@dataclass(frozen=True, slots=True)
class IndexedSample:
    """One sample of the shard at ``path``: its JSON, and its other files in the order of its media."""

    path: str
    key: str
    json: TarMember
    files: tuple[TarMember, ...]


def indexed_samples(root: Root, path: str, source: str, manifest: Mapping[str, Any]) -> Iterator[IndexedSample]:
    """The samples of ``source`` in the index at ``path``, in its order.

    `SourceError` where it is damaged, is none of ours, or does not list what the ``manifest`` of its folder does.
    """
    if not set(_COLUMNS) <= parquet_columns(root, path).keys():
        raise _fault(path, f"lacks one of the columns {', '.join(_COLUMNS)}")
    folder = folder_of(path)
    found: Counter[str] = Counter()
    known = {shard["name"]: shard["samples"] for shard in manifest["shards"]}
    for _, number, row in parquet_rows(root, path, _COLUMNS):
        if isinstance(row, RejectedError):
            raise _fault(path, f"row {number} cannot be read: {row.detail}")
        if row["shard"] not in known:
            raise _fault(path, f"row {number} is of {row['shard']!a:.80}, which the manifest does not list")
        found[row["shard"]] += 1
        if row["source"] == source:
            yield _sample(row, f"{folder}/{row['shard']}".lstrip("/"), path, number)
    for name, samples in known.items():
        if found[name] != samples:
            raise _fault(path, f"lists {found[name]} samples of {name}, which has {samples}")


def _sample(row: Mapping[str, Any], shard: str, path: str, number: int) -> IndexedSample:
    offsets, sizes, key = row["member_offsets"], row["member_sizes"], row["key"]
    lists = isinstance(offsets, list) and isinstance(sizes, list) and offsets and len(offsets) == len(sizes)
    if not lists or not isinstance(key, str) or not all(_is_size(value) for value in (*offsets, *sizes)):
        raise _fault(path, f"row {number} does not say where its sample lies")
    members = [TarMember(key, offset, size) for offset, size in zip(offsets, sizes, strict=True)]
    return IndexedSample(shard, key, members[0], tuple(members[1:]))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _fault(path: str, what: str) -> SourceError:
    return SourceError(f"{path}: {what}; fetch it again, or remove it to read the shards from end to end")
