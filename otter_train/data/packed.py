"""Batches without padding: whole prompts side by side in one row, and each medium once, however often it is shown.

In-context samples repeat their pictures, so a batch holds fewer than it shows: the same stored bytes are decoded, sent
to the device, encoded and resampled once. What a row costs is known before it is read (`otter_train.data.lengths`), so
rows of a token budget can be put together from an index (`mimicit.pack`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from mimicit.records import Media, Sample
from otter_train.data.batches import decode_media
from otter_train.data.encoding import Cut, Encoded
from otter_train.data.tokenizer import SpecialIds
from otter_train.data.vision_cache import KeptTokens
from otter_train.model.packing import Document, Packing, lay_out

MULTIPLE = 64
"""The length of a row is a multiple of this: matrix products are faster, and compiled blocks meet fewer shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """The samples of one row of N tokens.

    ``vision_x``: uint8[n, 3, H, W], the distinct pictures and frames; ``lang_x``: int64[1, N] token ids; ``packing``
    holds what belongs to which sample, and what is learned. ``ids``, ``sources``, ``labelled``, ``cut`` and
    ``left_out`` are those of `Batch`.

    With a cache of patch tokens ``vision_x`` holds only the pictures that it lacks: ``picture_keys`` are the SHA-256
    of their stored bytes, ``kept``: float[k, v, dim] the tokens of the others, and ``order``: int64[k + n] the
    index of each picture in ``kept`` followed by the new ones.
    """

    vision_x: Tensor
    lang_x: Tensor
    packing: Packing
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    labelled: int
    cut: Cut
    left_out: tuple[str, ...] = ()
    picture_keys: tuple[str, ...] = ()
    kept: Tensor | None = None
    order: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Text tokens without padding."""
        return sum(self.packing.documents.lengths[: self.packing.count])

    @property
    def pictures(self) -> int:
        """Distinct pictures, kept or to encode; the frames of a clip count one by one."""
        return len(self.vision_x) + (0 if self.kept is None else len(self.kept))

    @property
    def labelled_per_sample(self) -> list[int]:
        """The labelled tokens of each sample."""
        counts: list[int] = torch.bincount(self.packing.owners, minlength=self.packing.count).tolist()
        return counts

    def to(self, device: torch.device) -> PackedBatch:
        """The batch on ``device``; copies from pinned memory overlap with the computation."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True), self.packing.to(device))

    def pin_memory(self) -> PackedBatch:
        """The batch in pinned memory; `DataLoader` calls it by this name."""
        return self._map(Tensor.pin_memory, self.packing.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor], packing: Packing) -> PackedBatch:
        return replace(
            self,
            vision_x=change(self.vision_x),
            lang_x=change(self.lang_x),
            packing=packing,
            kept=None if self.kept is None else change(self.kept),
            order=None if self.order is None else change(self.order),
        )


def collate_packed(
    prompts: Sequence[Encoded],
    *,
    special: SpecialIds,
    image_size: int,
    multiple: int = MULTIPLE,
    cached: KeptTokens | None = None,
    left_out: tuple[str, ...] = (),
) -> PackedBatch:
    """One row of all ``prompts``, their distinct media decoded to ``image_size``, or their patch tokens ``cached``.

    Media are the same if their stored bytes are; hashes that the shards state are not trusted.
    """
    numbers: dict[tuple[bytes, ...], int] = {}
    distinct: list[tuple[Sample, Media]] = []
    documents = []
    for prompt in prompts:
        for medium in prompt.sample.media:
            if medium.data not in numbers:
                numbers[medium.data] = len(numbers)
                distinct.append((prompt.sample, medium))
        shown = [numbers[medium.data] for medium in prompt.sample.media]
        documents.append(Document(prompt.ids, prompt.labels, shown))
    frames = [len(medium.data) for _, medium in distinct]
    lang_x, packing = lay_out(documents, frames, image=special.image, pad=special.pad, multiple=multiple)
    vision_x, keys, kept, order = _pictures(distinct, image_size, cached)
    return PackedBatch(
        vision_x=vision_x,
        lang_x=lang_x,
        packing=packing,
        ids=tuple(prompt.sample.id for prompt in prompts),
        sources=tuple(prompt.sample.source for prompt in prompts),
        labelled=packing.labelled,
        cut=reduce(Cut.plus, (prompt.cut for prompt in prompts)),
        left_out=left_out,
        picture_keys=keys,
        kept=kept,
        order=order,
    )


def _pictures(
    media: Sequence[tuple[Sample, Media]], size: int, cached: KeptTokens | None
) -> tuple[Tensor, tuple[str, ...], Tensor | None, Tensor | None]:
    """``vision_x``, ``picture_keys``, ``kept`` and ``order`` of the distinct ``media``; without any, a blank picture.

    A clip is decoded if the cache lacks any of its frames.
    """
    if not media:
        return torch.zeros(1, 3, size, size, dtype=torch.uint8), ("blank",) if cached else (), None, None
    decoded = [torch.zeros(0, 3, size, size, dtype=torch.uint8)]
    keys: list[str] = []
    kept: list[Tensor] = []
    are_kept: list[bool] = []
    for sample, medium in media:
        names = [hashlib.sha256(data).hexdigest() for data in medium.data] if cached else []
        found = cached.read_all(names) if cached else None
        if found is None:
            decoded.append(decode_media(sample, medium, size))
            keys += names
        else:
            kept += found
        are_kept += [found is not None] * len(medium.data)
    vision_x = torch.cat(decoded)
    if not kept:
        return vision_x, tuple(keys), None, None
    flags = torch.tensor(are_kept)
    order = torch.where(flags, flags.cumsum(0) - 1, len(kept) + (~flags).cumsum(0) - 1)
    return vision_x, tuple(keys), torch.stack(kept), order
