"""The torch adapter: the same global batches for every world size and every number of workers.

Step s takes the positions [s·G, (s+1)·G) of the endless order (G: the global batch over all ranks), and rank r the
slice that starts at r·G/W. Workers hold no state: `DataLoader` gets an indexable data set and a batch sampler, so any
``num_workers`` gives the same batches, and starting at step s costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.utils.data

from mimicit.errors import UsageError
from mimicit.loading.samples import Samples
from mimicit.records import Sample

__all__ = ["PositionSampler", "SampleDataset"]


class SampleDataset(torch.utils.data.Dataset[Sample]):
    """`Samples` for `torch.utils.data.DataLoader`: an index is a position of the endless order."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Sample:
        return self.samples.get(position)


class PositionSampler(torch.utils.data.Sampler[list[int]]):
    """The positions of each step's batch on one rank; give it to `DataLoader` as ``batch_sampler``.

    ``batch_size`` is the global batch, a multiple of ``world_size``. Training runs ``steps`` batches from
    ``start_step`` on and lets the tail of an epoch flow into the next; every rank sees the same number of steps.
    """

    def __init__(self, *, batch_size: int, steps: int, start_step: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1 or world_size < 1 or batch_size % world_size:
            raise UsageError(f"the global batch of {batch_size} cannot be split evenly over {world_size} processes")
        if not 0 <= rank < world_size:
            raise UsageError(f"rank {rank} of {world_size} processes")
        self.batch_size = batch_size
        self.steps = steps
        self.start_step = start_step
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world_size
        for step in range(self.start_step, self.steps):
            first = step * self.batch_size + self.rank * share
            yield list(range(first, first + share))
