"""A folder of shards as a sequence of `Sample`s in some order, with random access by position and by key.

The object holds no position, so it can be shared, pickled into workers, and asked for any position in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from mimicit.loading.order import Order, Shuffle
from mimicit.loading.store import Store
from mimicit.records import Sample

__all__ = ["Samples", "load"]


def load(shards: str | Path, *, shuffle: Shuffle = None, seed: int = 0) -> Samples:
    """The samples of the finished folder ``shards``, in stored or in shuffled order.

    ``shuffle`` is ``None``, ``"full"`` (every order equally) or ``"window"`` (sequential reads; for large folders).
    The order depends on the folder, ``shuffle`` and ``seed`` alone. Raises `ShardError` and its kinds.
    """
    return Samples(Path(shards), shuffle=shuffle, seed=seed)


class Samples(Sequence[Sample]):
    """The samples of one folder; ``samples[position]`` for positions of the first epoch, `get` for any epoch."""

    def __init__(self, folder: Path, *, shuffle: Shuffle = None, seed: int = 0) -> None:
        self.store = Store(folder)
        self.order = Order(length=len(self.store), shuffle=shuffle, seed=seed)

    @property
    def folder(self) -> Path:
        """Where the shards lie."""
        return self.store.folder

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the folder."""
        return self.store.manifest

    @property
    def fingerprint(self) -> str:
        """See `Store.fingerprint`."""
        return self.store.fingerprint

    def __len__(self) -> int:
        return self.order.length

    @overload
    def __getitem__(self, position: int) -> Sample: ...
    @overload
    def __getitem__(self, position: slice) -> list[Sample]: ...
    def __getitem__(self, position: int | slice) -> Sample | list[Sample]:
        if isinstance(position, slice):
            return [self.get(place) for place in range(*position.indices(len(self)))]
        place = position + len(self) if position < 0 else position
        if not 0 <= place < len(self):
            raise IndexError(f"position {position} of {len(self)} samples")
        return self.get(place)

    def __iter__(self) -> Iterator[Sample]:
        for position in range(len(self)):
            yield self.get(position)

    def get(self, position: int) -> Sample:
        """The sample at ``position >= 0`` of an endless run: position p is place ``p % len`` of epoch ``p // len``."""
        return self.store.read(int(self.order.at([position])[0]))

    def by_key(self, key: str) -> Sample:
        """The sample with this WebDataset key; `UsageError` where there is none."""
        return self.store.read(self.store.row_of(key))

    def close(self) -> None:
        """Close the shard files; they are opened again when needed."""
        self.store.close()
