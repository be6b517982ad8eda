"""A tower that remembers gives what the tower gives, and asks it about each picture once."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from torch import Tensor, nn

from otter_train.evaluation.attempts import CachedTower
from otter_train.model.vision import VisionTower


class Counting(VisionTower):
    def __init__(self) -> None:
        super().__init__(dim=3, image_size=4)
        self.asked: list[int] = []

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        self.asked.append(len(pictures))
        return pictures.mean(-1).mT.contiguous()

    def pooling_head(self) -> list[nn.Parameter]:
        return []


def pictures(*numbers: int) -> Tensor:
    return torch.stack([torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(number)) for number in numbers])


def test_each_picture_is_asked_about_once() -> None:
    tower = Counting()
    remembering = CachedTower(tower)
    for shown in (pictures(1, 2, 1), pictures(2, 3), pictures(1, 2, 3)):
        assert torch.equal(remembering(shown), Counting()(shown))
    assert tower.asked == [2, 1]
    assert (remembering.dim, remembering.image_size, remembering.mean) == (tower.dim, tower.image_size, tower.mean)


def test_it_forgets_the_oldest_beyond_its_limit() -> None:
    tower = Counting()
    remembering = CachedTower(tower, limit_bytes=2 * 4 * 3 * 4)  # tokens of two pictures
    for number in (1, 2, 1, 3, 1, 2):
        assert torch.equal(remembering(pictures(number)), Counting()(pictures(number)))
    assert len(tower.asked) == 4  # 1 was shown again before 3 came, so 2 had to go
    assert torch.equal(remembering(pictures(1, 2, 3)), Counting()(pictures(1, 2, 3)))
