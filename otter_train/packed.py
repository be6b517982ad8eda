"""Batches without padding: whole prompts side by side in one row, and each medium once, however often it is shown.

In-context samples repeat their pictures, so a batch holds fewer than it shows: the same stored bytes are decoded,
sent to the device, encoded and resampled once. What a row costs is known before it is read (`otter_train.lengths`), so
rows of a token budget can be put together from an index (`mimicit.pack`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from mimicit.records import Media, Sample
from otter_train.encoding import Cut, Encoded
from otter_train.model.packing import Document, Packing, lay_out
from otter_train.pictures import decode_media
from otter_train.tokenizer import SpecialIds

__all__ = ["MULTIPLE", "PackedBatch", "collate_packed"]

MULTIPLE = 64
"""Rows have a multiple of so many tokens: matrix products like it, and compiled blocks meet fewer shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """The samples of one row of N tokens.

    ``vision_x``: uint8[n, 3, H, W], the distinct pictures and frames; ``lang_x``: int64[1, N] token ids; ``packing``
    says which is whose, and what is learnt. ``picture_keys`` are the SHA-256 of the stored bytes of each picture,
    where they were asked for. ``ids``, ``sources``, ``labelled`` and ``cut`` are those of `Batch`.
    """

    vision_x: Tensor
    lang_x: Tensor
    packing: Packing
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    labelled: int
    cut: Cut
    picture_keys: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Text tokens without padding."""
        return sum(self.packing.documents.lengths[: self.packing.count])

    @property
    def pictures(self) -> int:
        """Pictures to encode; the frames of a clip count one by one."""
        return len(self.vision_x)

    @property
    def learnt(self) -> list[int]:
        """The labelled tokens of each sample."""
        counts: list[int] = torch.bincount(self.packing.owners, minlength=self.packing.count).tolist()
        return counts

    def to(self, device: torch.device) -> PackedBatch:
        """The batch on ``device``; copies from pinned memory run beside the computation."""
        return replace(
            self,
            vision_x=self.vision_x.to(device, non_blocking=True),
            lang_x=self.lang_x.to(device, non_blocking=True),
            packing=self.packing.to(device),
        )

    def pin_memory(self) -> PackedBatch:
        """The batch in pinned memory; `DataLoader` calls it by this name."""
        vision_x, lang_x = self.vision_x.pin_memory(), self.lang_x.pin_memory()
        return replace(self, vision_x=vision_x, lang_x=lang_x, packing=self.packing.pin_memory())


def collate_packed(
    prompts: Sequence[Encoded],
    *,
    special: SpecialIds,
    image_size: int,
    multiple: int = MULTIPLE,
    with_keys: bool = False,
) -> PackedBatch:
    """One row of all ``prompts``, their distinct media decoded to ``image_size``.

    Media are the same where their stored bytes are; what a file says of itself is not believed.
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
    pictures = [decode_media(sample, medium, image_size) for sample, medium in distinct]
    lang_x, packing = lay_out(
        documents, [len(frames) for frames in pictures], image=special.image, pad=special.pad, multiple=multiple
    )
    blank = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8)
    return PackedBatch(
        vision_x=torch.cat(pictures) if pictures else blank,
        lang_x=lang_x,
        packing=packing,
        ids=tuple(prompt.sample.id for prompt in prompts),
        sources=tuple(prompt.sample.source for prompt in prompts),
        labelled=packing.labelled,
        cut=reduce(Cut.plus, (prompt.cut for prompt in prompts)),
        picture_keys=_keys([medium for _, medium in distinct]) if with_keys else (),
    )


def _keys(media: Sequence[Media]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(data).hexdigest() for medium in media for data in medium.data) or ("blank",)
