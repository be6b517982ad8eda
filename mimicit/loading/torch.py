"""The torch adapter: the same global batches for every world size and every number of workers.

`Loader` is a whole loader with exact, elastic resume. `SampleDataset` and `PositionSampler` are its two halves for
`torch.utils.data.DataLoader` and for torchdata's `StatefulDataLoader`. In both, workers hold no state: what they
return depends on the request alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch.distributed
import torch.utils.data

from mimicit.errors import LostWorkerError, MimicitError, UsageError
from mimicit.loading.mixture import Mixture
from mimicit.loading.order import PADDING, PARTS, Address, LoaderState, Ordered, Slots, Split
from mimicit.worker import begin_worker, check_processes

Value = TypeVar("Value")
Context = Literal["fork", "forkserver", "spawn"]


class SampleDataset(torch.utils.data.Dataset["Value | None"]):
    """`Samples`, packs or a mixture for `DataLoader`: an index is a position of the endless order.

    The value is None for `PADDING`, and for a damaged sample if damage is masked. Its state holds the fingerprints of
    the samples, so that `StatefulDataLoader` refuses to resume with others.
    """

    def __init__(self, samples: Ordered[Value]) -> None:
        self.samples = samples
        self._fetch = samples.fetch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Value | None:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Value | None]:
        """All values of a batch in one go; `DataLoader` calls it by this name."""
        return _values(self._fetch, positions, _addresses(self.samples, positions))

    def state_dict(self) -> dict[str, Any]:
        """The fingerprints of the samples; the position is in the state of `PositionSampler`."""
        return dict(self.samples.fingerprints)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """`UsageError` if the state is that of other samples."""
        prints = {part: str(state.get(part)) for part in PARTS}
        LoaderState(batches=0, batch_size=1, fingerprints=prints).check(self.samples.fingerprints, 1)


class PositionSampler(torch.utils.data.Sampler[list[int]]):
    """The positions of each step's batch on one rank; give it to `DataLoader` as ``batch_sampler``.

    ``batch_size`` is the global batch, a multiple of ``world_size``. Training runs until ``steps`` from ``start_step``
    on and lets the tail of an epoch flow into the next. With ``end`` (the number of samples to evaluate), positions
    at or after it are `PADDING`, and ``steps`` defaults to the number that covers ``end``. Every rank sees the same
    number of steps. Its iterators can be saved and resumed (`StatefulDataLoader` does).
    """

    def __init__(
        self,
        *,
        batch_size: int,
        steps: int | None = None,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        end: int | None = None,
    ) -> None:
        self.split = Split(batch_size=batch_size, rank=rank, world_size=world_size, end=end)
        self.steps = self.split.steps_before_end() if steps is None else steps
        self.start_step = start_step

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        return _Steps(self)


class _Steps(Iterator[list[int]]):
    def __init__(self, sampler: PositionSampler) -> None:
        self._sampler = sampler
        self._step = sampler.start_step

    def __next__(self) -> list[int]:
        if self._step >= self._sampler.steps:
            raise StopIteration
        self._step += 1
        return self._sampler.split.positions(self._step - 1)

    def state_dict(self) -> dict[str, int]:
        return {"step": self._step, "batch_size": self._sampler.split.batch_size}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        if state["batch_size"] != self._sampler.split.batch_size:
            raise UsageError(f"the state has batch_size={state['batch_size']}, not {self._sampler.split.batch_size}")
        self._step = state["step"]


class _Beginning:
    """What a worker does first."""

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self._then = then

    def __call__(self, worker: int) -> None:
        begin_worker()
        if self._then is not None:
            self._then(worker)


class Loader(Generic[Value]):
    """Batches of ``samples`` (an `Ordered`: `Samples`, packs, a `Mixture`) for one rank, resumable at any batch.

    ``batch_size`` is the global batch, a multiple of ``world_size``; rank and world size default to those of
    ``torch.distributed``. Training (the default) runs for ``steps`` global steps, or without end, and the tail of an
    epoch flows into the next. ``evaluate=True`` is one pass over ``samples`` whose last step is padded; iterating again
    after its end starts over. Every rank sees the same number of steps.

    ``collate`` turns the `Slots` of a step into what is delivered, in the worker. ``num_workers``, ``context``,
    ``persistent_workers``, ``prefetch`` (batches per worker), ``pin_memory`` and ``worker_init`` are those of
    `DataLoader`; none of them changes a batch. A `MimicitError` in a worker is raised unchanged.

    Iterate once at a time: an iteration continues after the last delivered batch.
    """

    def __init__(
        self,
        samples: Ordered[Value],
        *,
        batch_size: int,
        steps: int | None = None,
        evaluate: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        num_workers: int = 0,
        context: Context | None = None,
        persistent_workers: bool = False,
        prefetch: int = 2,
        pin_memory: bool = False,
        collate: Callable[[Slots[Value]], Any] | None = None,
        worker_init: Callable[[int], None] | None = None,
    ) -> None:
        if evaluate and steps is not None:
            raise UsageError("evaluate=True sees every sample once; leave out steps=")
        own_rank, own_world = _distributed()
        split = Split(
            batch_size=batch_size,
            rank=own_rank if rank is None else rank,
            world_size=own_world if world_size is None else world_size,
            end=len(samples) if evaluate else None,
        )
        self.evaluate = evaluate
        self.steps = split.steps_before_end() if evaluate else steps
        self._tickets = _Tickets(samples, split, self.steps)
        self._fingerprints = dict(samples.fingerprints)
        self._moved = False
        if num_workers:
            check_processes()
        self._batches: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            _Worker(samples.fetch, collate),
            sampler=self._tickets,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            multiprocessing_context=context if num_workers else None,
            persistent_workers=persistent_workers and num_workers > 0,
            prefetch_factor=prefetch if num_workers else None,
            pin_memory=pin_memory,
            worker_init_fn=_Beginning(worker_init),
        )

    @property
    def samples(self) -> Ordered[Value]:
        """What is loaded; `set_weights` and `load_state_dict` give a mixture other weights."""
        return self._tickets.samples

    @property
    def step(self) -> int:
        """Global batches delivered so far."""
        return self._tickets.first

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("a loader without steps= has no length")
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        if self.evaluate and self._tickets.first == self.steps:
            self._tickets.first = 0
        going_on = True
        while going_on:
            going_on = self._moved = False
            for batch in self._batches if not self._batches.num_workers else _of_workers(self._batches):
                if isinstance(batch, MimicitError):
                    raise batch
                self._tickets.first += 1
                yield batch
                if self._moved:  # the batches that workers have prepared are no longer the next ones
                    going_on = True
                    break

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands after the batches delivered so far: at most 512 bytes of JSON, equal on all ranks."""
        changes = self.samples.changes if isinstance(self.samples, Mixture) else ()
        state = LoaderState(
            batches=self._tickets.first,
            batch_size=self._tickets.split.batch_size,
            fingerprints=self._fingerprints,
            changes=changes,
        )
        return state.to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the batches of ``state``, which may come from any world size and number of workers.

        `UsageError` names what differs: content, order, filter, mixture, packing or batch size.
        """
        loaded = LoaderState.from_json(state)
        loaded.check(self._fingerprints, self._tickets.split.batch_size)
        if isinstance(self.samples, Mixture):
            changes = [(start, tuple(units)) for start, units in loaded.changes]
            self._tickets.samples = self.samples.with_changes(changes)
        self._tickets.first = loaded.batches
        self._moved = True

    def set_weights(self, weights: Sequence[float]) -> None:
        """Give the parts of a mixture other weights from its next window on; call it on every rank after one step.

        `UsageError` if the samples are not a mixture, or the state has no room for one more change.
        """
        if not isinstance(self.samples, Mixture):
            raise UsageError("weights belong to a mixture; these samples are none")
        before = self.samples
        self._tickets.samples = before.reweighted(weights, self.step * self._tickets.split.batch_size)
        try:
            self.state_dict()
        except UsageError:
            self._tickets.samples = before
            raise
        self._moved = True


class _Ticket(NamedTuple):
    """What a worker needs to make one batch."""

    step: int
    positions: list[int]
    addresses: list[Address]


class _Tickets(torch.utils.data.Sampler[_Ticket]):
    """The half of a loader that stays in the training process: what each step from ``first`` on consists of."""

    def __init__(self, samples: Ordered[Any], split: Split, steps: int | None) -> None:
        self.samples = samples
        self.split = split
        self.steps = steps
        self.first = 0

    def __iter__(self) -> Iterator[_Ticket]:
        step = self.first  # a copy: ``first`` counts delivered batches, and workers are asked ahead of them
        while self.steps is None or step < self.steps:
            positions = self.split.positions(step)
            yield _Ticket(step, positions, _addresses(self.samples, positions))
            step += 1


@dataclass(frozen=True)
class _Worker(torch.utils.data.Dataset[Any]):
    """The half of a loader that runs in workers: it knows how to read, and nothing of orders."""

    fetch: Callable[[Address], Any]
    collate: Callable[[Slots[Any]], Any] | None

    def __getitem__(self, ticket: _Ticket) -> Any:
        try:
            values = _values(self.fetch, ticket.positions, ticket.addresses)
            slots = Slots(ticket.step, tuple(ticket.positions), tuple(values))
            return slots if self.collate is None else self.collate(slots)
        except MimicitError as error:  # as a value: DataLoader would wrap it in a page of traceback
            return error


def _addresses(samples: Ordered[Any], positions: Sequence[int]) -> list[Address]:
    """The addresses of the positions that are not padding."""
    return samples.addresses([position for position in positions if position != PADDING])


def _values(
    fetch: Callable[[Address], Value | None], positions: Sequence[int], addresses: Sequence[Address]
) -> list[Value | None]:
    ahead = iter(addresses)
    return [None if position == PADDING else fetch(next(ahead)) for position in positions]


def _distributed() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _of_workers(batches: Iterable[Any]) -> Iterator[Any]:
    """``batches``; `LostWorkerError` if a worker dies, seen as a lost connection or by a check of `DataLoader`."""
    try:
        yield from batches
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        is_of_worker = str(error).startswith("Caught ")  # an exception inside a worker
        if is_of_worker or (isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker")):
            raise
        raise LostWorkerError(
            "a process that prepares data was killed, perhaps because memory ran out; fewer workers need less"
        ) from None


def _as_it_is(batch: Any) -> Any:
    return batch
