"""A vision tower that looks at each picture once: for evaluations, which show the same pictures again and again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch
from torch import Tensor, nn

from otter_train.model.vision import VisionTower

__all__ = ["RememberingTower"]


class RememberingTower(VisionTower):
    """``tower``, whose patch tokens of the last pictures are kept in memory, up to ``limit_bytes`` of them.

    Pictures are the same where all their numbers are. The weights must not change meanwhile.
    """

    def __init__(self, tower: VisionTower, *, limit_bytes: int = 1 << 30) -> None:
        super().__init__(dim=tower.dim, image_size=tower.image_size, mean=tower.mean, std=tower.std)
        self.tower = tower
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._kept_bytes = 0

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        """As those of the tower, bit for bit, but for pictures that were encoded in other company."""
        keys = [hashlib.sha256(picture.numpy().data).digest() for picture in pictures.cpu().contiguous()]
        first = {key: place for place, key in reversed([*enumerate(keys)])}
        found = {key: self._kept[key] for key in first if key in self._kept}
        missing = [key for key in first if key not in found]
        if missing:
            fresh = self.tower(pictures[[first[key] for key in missing]])
            found.update(zip(missing, fresh, strict=True))
        for key in first:
            self._keep(key, found[key])
        return torch.stack([found[key] for key in keys])

    def pooling_head(self) -> list[nn.Parameter]:
        """That of the tower."""
        return self.tower.pooling_head()

    def _keep(self, key: bytes, tokens: Tensor) -> None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        self._kept[key] = tokens.clone()  # not a view that would keep its whole batch
        self._kept_bytes += tokens.nbytes
        while self._kept_bytes > self._limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.nbytes
