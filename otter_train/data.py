"""From samples to the `Batch` the model eats, made ahead of time in worker processes.

A batch is a pure function of the positions in it, so the same steps see the same batches with any number of workers,
and a run resumes by counting alone. Workers decode and tokenise; pictures stay uint8 until they are on the device.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mimicit.errors import MimicitError
from mimicit.records import Sample
from otter_train.encoding import IGNORED, Cut, Encoded, PromptEncoder
from otter_train.pictures import decode_media

__all__ = ["Batch", "OrderedSamples", "batches", "collate", "micro_batches"]


class OrderedSamples(Protocol):
    """Samples in the order of training. Position *p* lies in epoch ``p // len(samples)``."""

    @property
    def fingerprint(self) -> str:
        """Changes when the shards do."""

    def __len__(self) -> int:
        """Samples of one epoch."""

    def get(self, position: int) -> Sample:
        """The sample at ``position``, with the bytes of its media."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """``B`` samples, padded to ``T`` tokens, ``T_img`` media and ``F`` frames.

    ``vision_x``: uint8[B, T_img, F, 3, H, W]; in-context pictures lie along T_img, the frames of one clip along F.
    ``vision_mask``: bool[B, T_img, F], True where there is a picture. ``lang_x``: int64[B, T] token ids;
    ``attention_mask``: bool[B, T]; ``labels``: int64[B, T], -100 where nothing is learnt, of which ``labelled`` are
    not. ``ids`` and ``sources`` name the samples; ``cut`` counts what did not fit.
    """

    vision_x: Tensor
    vision_mask: Tensor
    lang_x: Tensor
    attention_mask: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    labelled: int
    cut: Cut

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; copies from pinned memory run beside the computation."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in pinned memory; `DataLoader` calls it by this name."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = change(value)
        return Batch(**values)


def collate(prompts: Sequence[Encoded], *, pad: int, image_size: int, pad_left: bool = False) -> Batch:
    """Decode the media of ``prompts`` to ``image_size`` and pad everything to one shape.

    Tokens are padded on the right to train, on the left to generate.
    """
    media = [[decode_media(prompt.sample, medium, image_size) for medium in prompt.sample.media] for prompt in prompts]
    images = max(map(len, media))
    frames = max((len(medium) for sample in media for medium in sample), default=0)
    vision_x = torch.zeros(len(prompts), images, frames, 3, image_size, image_size, dtype=torch.uint8)
    vision_mask = torch.zeros(len(prompts), images, frames, dtype=torch.bool)
    for row, sample in enumerate(media):
        for place, medium in enumerate(sample):
            vision_x[row, place, : len(medium)] = medium
            vision_mask[row, place, : len(medium)] = True
    lang_x = _pad([prompt.ids for prompt in prompts], pad, pad_left)
    labels = _pad([prompt.labels for prompt in prompts], IGNORED, pad_left)
    labels[:, 0] = IGNORED  # nothing comes before it that could predict it
    attention_mask = _pad([[1] * len(prompt.ids) for prompt in prompts], 0, pad_left).bool()
    return Batch(
        vision_x=vision_x,
        vision_mask=vision_mask,
        lang_x=lang_x,
        attention_mask=attention_mask,
        labels=labels,
        ids=tuple(prompt.sample.id for prompt in prompts),
        sources=tuple(prompt.sample.source for prompt in prompts),
        labelled=int((labels != IGNORED).sum()),
        cut=reduce(Cut.plus, (prompt.cut for prompt in prompts)),
    )


def micro_batches(steps: Iterable[Sequence[int]], *, end: int, accumulate: int = 1) -> Iterator[list[int]]:
    """The positions of each forward pass: those of each of ``steps`` that lie before ``end``, in ``accumulate`` parts.

    The parts are as even as they can be; some are empty where a step has fewer positions than parts.
    """
    for step in steps:
        positions = [position for position in step if position < end]
        for part in range(accumulate):
            yield positions[len(positions) * part // accumulate : len(positions) * (part + 1) // accumulate]


def batches(
    samples: OrderedSamples,
    encoder: PromptEncoder,
    positions: Iterable[list[int]],
    *,
    image_size: int,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch | None]:
    """One `Batch` for each list of ``positions``, in order; None for an empty list.

    ``workers`` processes prepare them ahead of time (0: this process does). `MimicitError` of a worker is raised
    here as it was raised there.
    """
    loader: DataLoader[Batch | MimicitError | None] = DataLoader(
        _Batches(samples, encoder, image_size),
        sampler=_Positions(positions),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    for batch in loader:
        if isinstance(batch, MimicitError):
            raise batch
        yield batch


class _Batches(Dataset["Batch | MimicitError | None"]):
    def __init__(self, samples: OrderedSamples, encoder: PromptEncoder, image_size: int) -> None:
        self.samples = samples
        self.encoder = encoder
        self.image_size = image_size

    def __getitem__(self, positions: list[int]) -> Batch | MimicitError | None:
        if not positions:
            return None
        try:
            prompts = [self.encoder.encode(self.samples.get(position)) for position in positions]
            return collate(prompts, pad=self.encoder.special.pad, image_size=self.image_size)
        except MimicitError as error:  # as a value: DataLoader would wrap it in a page of traceback
            return error


class _Positions(Sampler[list[int]]):
    """`DataLoader` wants a sampler; the positions of a run are a plain iterable."""

    def __init__(self, positions: Iterable[list[int]]) -> None:
        self.positions = positions

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.positions)


def _pad(rows: Sequence[Sequence[int]], value: int, left: bool) -> Tensor:
    longest = max(map(len, rows))
    fill = [[value] * (longest - len(row)) for row in rows]
    return torch.tensor([[*extra, *row] if left else [*row, *extra] for row, extra in zip(rows, fill, strict=True)])


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C and batch systems signal all processes at once; without its workers the trainer could not end in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
