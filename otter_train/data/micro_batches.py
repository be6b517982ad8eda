"""What each process works on in a step: its samples, as the micro-batches of the forward passes.

A group is a pure function of the positions in it, so the same steps see the same groups with any number of workers,
and the state of a run's data is that of its `Loader`. Workers read, decode and tokenise.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from mimicit.loading.order import Address, Ordered, Slots
from mimicit.loading.packing import Pack
from mimicit.loading.torch import Loader
from mimicit.records import Sample
from mimicit.worker import end_with_parent
from otter_train.data.batches import Batch, blank_batch, collate
from otter_train.data.encoding import PromptEncoder, UnshowableError
from otter_train.data.packed import PackedBatch, collate_packed
from otter_train.data.vision_cache import KeptTokens
from otter_train.distributed import World

Group = tuple[Batch | PackedBatch | None, ...]
"""The micro-batches of one step on one process; None for one without samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCollator:
    """Makes the `Group` of a step from what the loader has read; it runs in the workers.

    The samples are divided among ``accumulate`` micro-batches as evenly as possible. It leaves out damaged ones that
    the loader masks, padding, positions at or after ``end`` (where the last epoch ends), and samples too long to be
    shown (see `Batch.left_out`). ``packed`` makes one row of each micro-batch, without padding; pictures whose patch
    tokens are ``cached`` are then not decoded.
    """

    encoder: PromptEncoder
    image_size: int
    accumulate: int = 1
    end: int | None = None
    packed: bool = False
    cached: KeptTokens | None = None

    def __call__(self, slots: Slots[Sample] | Slots[Pack]) -> Group:
        """The group of ``slots``; `MimicitError` names a sample that cannot be used."""
        values = [
            value
            for position, value in zip(slots.positions, slots.values, strict=True)
            if value is not None and (self.end is None or position < self.end)
        ]
        cuts = [len(values) * part // self.accumulate for part in range(self.accumulate + 1)]
        return tuple(self._batch(values[start:stop]) for start, stop in pairwise(cuts))

    def _batch(self, values: Sequence[Sample | Pack]) -> Batch | PackedBatch | None:
        samples = [one for value in values for one in (value.samples if isinstance(value, Pack) else (value,))]
        if not samples:
            return None
        prompts, unshowable = [], []
        for sample in samples:
            try:
                prompts.append(self.encoder.encode(sample))
            except UnshowableError as error:
                unshowable.append(str(error))
        special, size, left_out = self.encoder.special, self.image_size, tuple(unshowable)
        if not prompts:
            return blank_batch(special.pad, size, left_out)
        if self.packed:
            return collate_packed(prompts, special=special, image_size=size, cached=self.cached, left_out=left_out)
        return collate(prompts, pad=special.pad, image_size=size, left_out=left_out)


def training_loader(
    samples: Ordered[Sample] | Ordered[Pack],
    collator: GroupCollator,
    *,
    batch_size: int,
    steps: int,
    world: World,
    workers: int = 0,
    pin_memory: bool = False,
) -> Loader[Any]:
    """A `Loader` of the groups of ``steps`` steps of ``batch_size`` samples, or rows of them, over all processes."""
    return Loader(
        samples,
        batch_size=batch_size,
        steps=steps,
        rank=world.rank,
        world_size=world.size,
        num_workers=workers,
        pin_memory=pin_memory,
        collate=collator,
        worker_init=_leave_signals_to_the_trainer,
    )


def evaluation_loader(
    samples: Ordered[Sample], collator: GroupCollator, *, limit: int, batch_size: int, world: World
) -> Loader[Sample]:
    """A `Loader` of one pass over the first ``limit`` of ``samples``, with the same number of steps on every process.

    ``batch_size`` counts the samples of one process.
    """
    return Loader(
        _First(samples, min(limit, len(samples))),
        batch_size=batch_size * world.size,
        evaluate=True,
        rank=world.rank,
        world_size=world.size,
        collate=collator,
    )


def each_group(loader: Loader[Sample]) -> Iterator[Group]:
    """The groups of ``loader``; torch's generator is left as it was.

    `DataLoader` draws seeds for its workers from it, once per session: a resumed run would continue with other
    numbers than one that was not interrupted.
    """
    groups = iter(loader)
    on_death = signal.getsignal(signal.SIGCHLD)
    if getattr(on_death, "__module__", "").startswith("torch."):  # another loader of this process left it
        on_death = signal.SIG_DFL
    while True:
        with torch.random.fork_rng(devices=[]):
            group = next(groups, None)
        # When a worker dies, DataLoader's signal handler raises wherever the process is, but an update of weights must
        # not end in the middle. Without the handler, DataLoader raises when the next batch is taken from it.
        if signal.getsignal(signal.SIGCHLD) is not on_death and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, on_death)
        if group is None:
            return
        yield group


@dataclass(frozen=True, slots=True)
class _First:
    """An `Ordered` of the first ``count`` of ``samples``."""

    samples: Ordered[Sample]
    count: int

    def __len__(self) -> int:
        return self.count

    def addresses(self, positions: Sequence[int]) -> list[Address]:
        return self.samples.addresses(positions)

    @property
    def fetch(self) -> Callable[[Address], Sample | None]:
        return self.samples.fetch

    @property
    def fingerprints(self) -> Mapping[str, str]:
        return self.samples.fingerprints


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ignore what Ctrl-C and batch systems send to all processes: the trainer needs its workers to end in order.

    They end when it does, however it ends.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
