"""The tower of the proof of binding, whose head tells the principal components of its training pictures alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")
pytest.importorskip("timm", reason="comes with the extra 'train'")

import torch
from PIL import Image
from transformers import TimmWrapperConfig, TimmWrapperModel

from tools.proof.pretrained import compact_head


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((96, 96)).save(tmp_path / f"{number}.png")
    return sorted(tmp_path.glob("*.png"))


def test_the_channels_are_mixtures_of_the_components_around_the_middle(pictures: list[Path]) -> None:
    torch.manual_seed(0)
    config = TimmWrapperConfig(architecture="tf_efficientnet_lite0", num_labels=0, do_pooling=False)
    model = TimmWrapperModel(config).eval()
    compact_head(model, pictures, components=3)
    read = [np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) for path in pictures]
    batch = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        told = model(batch).last_hidden_state.flatten(2).mT.flatten(0, 1)  # places, channels
    assert told.shape == (6 * 9, 1280)
    within = (told > 0) & (told < 6)  # there the activation changes nothing
    assert within.float().mean() > 0.85
    free = told[:, within.all(0)]
    assert free.shape[1] > 20
    strengths = torch.linalg.svdvals(free - free.mean(0))
    assert strengths[3] < 1e-3 * strengths[2]
    assert told.mean().item() == pytest.approx(1.5, abs=0.2) and told.std().item() == pytest.approx(1, rel=0.25)
