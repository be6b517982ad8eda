"""Shards as a `datasets.IterableDataset`: positions of our order, read one by one, so that a state is a number.

`datasets` splits an iterable by its shards; here any slice of the positions is a shard, so nodes and workers get equal
shares whatever their number, and none reads what another shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import datasets
import numpy as np
import pyarrow as pa
from datasets.iterable_dataset import _BaseExamplesIterable

from mimicit.errors import UsageError
from mimicit.hub.clips import embedded_row
from mimicit.loading.order import digest
from mimicit.loading.samples import Samples
from mimicit.sample_table import table_schema

_SHARDS: Final = 960  # a multiple of 1 to 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 60, 64, 80 and 96
_AT_ONCE: Final = 256  # positions whose addresses are computed together


def streamed(samples: Samples, *, videos: bool) -> datasets.IterableDataset:
    """One epoch of ``samples`` as rows with their pictures; see `to_datasets`."""
    features = datasets.Features.from_arrow_schema(table_schema(videos=videos))
    rows = _Rows(samples, range(len(samples)), videos=videos)
    return datasets.IterableDataset(rows, info=datasets.DatasetInfo(features=features))


class _Rows(_BaseExamplesIterable):  # type: ignore[misc]
    """The rows of ``samples`` at ``positions``, in that order; what `datasets` calls an examples iterable."""

    _sleep_on_threads_shutdown = False  # required by `datasets`; no thread reads here

    def __init__(self, samples: Samples, positions: range, *, videos: bool) -> None:
        super().__init__()
        self._videos = videos
        self._samples = samples
        self._positions = positions

    @property
    def iter_arrow(self) -> Callable[[], Iterator[tuple[int, pa.Table]]]:
        """The rows as tables of one row each, whose columns have fixed types whatever the first rows hold."""
        return self._iter_arrow

    def _iter_arrow(self) -> Iterator[tuple[int, pa.Table]]:
        schema = table_schema(videos=self._videos)
        for position, row in self:
            yield position, pa.Table.from_pylist([row], schema=schema)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        state: dict[str, Any] | None = self._state_dict
        if state is not None and state["samples"] != (own := self._digest()):
            raise UsageError(
                f"the state is of other samples ({state['samples']}, here {own}): give the same shards, shuffle, seed"
                " and where=, and as many nodes and workers"
            )
        fetch = self._samples.fetch
        ahead = self._positions[state["delivered"] if state is not None else 0 :]
        for first in range(0, len(ahead), _AT_ONCE):
            part = ahead[first : first + _AT_ONCE]
            for position, address in zip(part, self._samples.addresses(part), strict=True):
                sample = fetch(address)
                if state is not None:
                    state["delivered"] += 1
                if sample is not None:  # None: damaged, and `on_error` masks it
                    yield position, embedded_row(sample, videos=self._videos)

    def _init_state_dict(self) -> dict[str, Any]:
        self._state_dict = {"delivered": 0, "samples": self._digest(), "type": type(self).__name__}
        return self._state_dict

    def _digest(self) -> str:
        prints = [self._samples.fingerprints[part] for part in ("content", "order", "filter")]
        return digest(*prints, self._positions)

    def shuffle_data_sources(self, generator: np.random.Generator) -> _Rows:
        """Another order of the same kind, of all samples; in windows if they come as stored."""
        seed = int(copy.deepcopy(generator).integers(1 << 62))
        samples = copy.copy(self._samples)
        order = samples.order
        samples.order = replace(order, shuffle=order.shuffle or "window", seed=(order.seed + seed) % (1 << 62))
        return _Rows(samples, self._positions, videos=self._videos)

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> _Rows:
        """The ``index``-th of ``num_shards`` shares, none of which has two samples more than another."""
        count = len(self._positions)
        part = slice(count * index // num_shards, count * (index + 1) // num_shards)
        part = part if contiguous else slice(index, None, num_shards)
        return _Rows(self._samples, self._positions[part], videos=self._videos)

    def reshard_data_sources(self) -> _Rows:
        """Itself: it can be cut anywhere as it is."""
        return self

    @property
    def num_shards(self) -> int:
        """The number of equal shares for `datasets`: a divisor of `_SHARDS`, so that many numbers of nodes fit."""
        most = max(1, len(self._positions))
        return next(number for number in range(min(_SHARDS, most), 0, -1) if _SHARDS % number == 0)
