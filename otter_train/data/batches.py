"""From prompts to the `Batch` that the model takes: decoded, padded, and still on the CPU.

CLIP resizes the shortest side to the tower's size (bicubic, antialiased) and crops the centre; a picture that already
is such a square passes unchanged. Values stay uint8 until they are on the device (`normalise`), which moves a quarter
of the bytes. `otter_train.data.micro_batches` makes the batches of a step in worker processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from mimicit.errors import CorruptShardError, TrainError
from mimicit.loading import decode
from mimicit.loading.decode import resize_centre
from mimicit.records import Media, Sample
from otter_train.data.encoding import Cut, Encoded
from otter_train.model.packing import IGNORED


def decode_media(sample: Sample, media: Media, size: int) -> Tensor:
    """The picture or the frames of ``media`` as uint8[F, 3, size, size].

    `TrainError` names the sample and the file if the bytes cannot be decoded.
    """
    try:
        pixels = decode.decode_media(media, size, where=f"sample {sample.id!r} of {sample.source}")
    except CorruptShardError as error:
        raise TrainError(str(error)) from None
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def fit(picture: Tensor, size: int) -> Tensor:
    """uint8[3, H, W] to uint8[3, size, size]: shortest side to ``size`` (bicubic), then the centre."""
    pixels = picture.permute(1, 2, 0).numpy()
    if pixels.shape[:2] != (size, size):
        pixels = resize_centre(pixels, size)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def normalise(vision_x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8[..., 3, H, W] to float32 of the same shape: ``(x / 255 - mean) / std`` per channel."""
    offset = torch.tensor(mean, device=vision_x.device).view(3, 1, 1)
    scale = torch.tensor(std, device=vision_x.device).view(3, 1, 1)
    return (vision_x.float() / 255 - offset) / scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """``B`` samples, padded to ``T`` tokens, ``T_img`` media and ``F`` frames.

    ``vision_x``: uint8[B, T_img, F, 3, H, W]; in-context pictures lie along T_img, the frames of one clip along F.
    ``vision_mask``: bool[B, T_img, F], True where there is a picture. ``firsts``: int64[B, T_img, F], for each picture
    the flat index over B, T_img and F of the first with the same stored bytes: only those are encoded.
    ``lang_x``: int64[B, T] token ids; ``attention_mask``: bool[B, T]; ``labels``: int64[B, T], -100 where nothing is
    learned; ``labelled`` of them are not -100. ``ids`` and ``sources`` name the samples; ``cut`` counts what did not
    fit. ``left_out`` says why samples that belong here are missing: they cannot be shown in ``--max-tokens``.
    """

    vision_x: Tensor
    vision_mask: Tensor
    firsts: Tensor
    lang_x: Tensor
    attention_mask: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    labelled: int
    cut: Cut
    left_out: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Text tokens without padding."""
        return int(self.attention_mask.sum())

    @property
    def pictures(self) -> int:
        """Pictures to encode; the frames of a clip count one by one."""
        return len(set(self.firsts[self.vision_mask].tolist()))

    @property
    def labelled_per_sample(self) -> list[int]:
        """The labelled tokens of each sample."""
        counts: list[int] = (self.labels != IGNORED).sum(dim=1).tolist()
        return counts

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; copies from pinned memory overlap with the computation."""
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


def collate(
    prompts: Sequence[Encoded],
    *,
    pad: int,
    image_size: int,
    pad_left: bool = False,
    left_out: tuple[str, ...] = (),
) -> Batch:
    """Decode the media of ``prompts`` to ``image_size``, each once, and pad everything to one shape.

    Tokens are padded on the right to train, on the left to generate.
    """
    decoded: dict[tuple[bytes, ...], Tensor] = {}
    for prompt in prompts:
        for medium in prompt.sample.media:
            if medium.data not in decoded:
                decoded[medium.data] = decode_media(prompt.sample, medium, image_size)
    images = max(len(prompt.sample.media) for prompt in prompts)
    frames = max(map(len, decoded), default=0)
    vision_x = torch.zeros(len(prompts), images, frames, 3, image_size, image_size, dtype=torch.uint8)
    vision_mask = torch.zeros(len(prompts), images, frames, dtype=torch.bool)
    firsts = torch.arange(len(prompts) * images * frames).view(len(prompts), images, frames)
    places: dict[bytes, int] = {}
    for row, prompt in enumerate(prompts):
        for place, medium in enumerate(prompt.sample.media):
            there = slice(len(medium.data))
            vision_x[row, place, there] = decoded[medium.data]
            vision_mask[row, place, there] = True
            own = firsts[row, place, there]
            own.copy_(torch.tensor([places.setdefault(*one) for one in zip(medium.data, own.tolist(), strict=True)]))
    lang_x = _pad([prompt.ids for prompt in prompts], pad, pad_left)
    labels = _pad([prompt.labels for prompt in prompts], IGNORED, pad_left)
    labels[:, 0] = IGNORED  # nothing comes before it that could predict it
    attention_mask = _pad([[1] * len(prompt.ids) for prompt in prompts], 0, pad_left).bool()
    return Batch(
        vision_x=vision_x,
        vision_mask=vision_mask,
        firsts=firsts,
        lang_x=lang_x,
        attention_mask=attention_mask,
        labels=labels,
        ids=tuple(prompt.sample.id for prompt in prompts),
        sources=tuple(prompt.sample.source for prompt in prompts),
        labelled=int((labels != IGNORED).sum()),
        cut=reduce(Cut.plus, (prompt.cut for prompt in prompts)),
        left_out=left_out,
    )


def blank_batch(pad: int, image_size: int, left_out: tuple[str, ...] = ()) -> Batch:
    """One token, no picture, nothing to learn: what a process without samples computes when others wait for it."""
    return Batch(
        vision_x=torch.zeros(1, 0, 0, 3, image_size, image_size, dtype=torch.uint8),
        vision_mask=torch.zeros(1, 0, 0, dtype=torch.bool),
        firsts=torch.zeros(1, 0, 0, dtype=torch.long),
        lang_x=torch.tensor([[pad]]),
        attention_mask=torch.ones(1, 1, dtype=torch.bool),
        labels=torch.tensor([[IGNORED]]),
        ids=(),
        sources=(),
        labelled=0,
        cut=Cut(),
        left_out=left_out,
    )


def _pad(rows: Sequence[Sequence[int]], value: int, left: bool) -> Tensor:
    longest = max(map(len, rows))
    fill = [[value] * (longest - len(row)) for row in rows]
    return torch.tensor([[*extra, *row] if left else [*row, *extra] for row, extra in zip(rows, fill, strict=True)])
