"""What a model says to coloured squares, before anything is chosen from it."""

from __future__ import annotations

import torch

from otter_train.data.batches import collate, normalise
from otter_train.inference.answering import TrainedModel
from otter_train.model import Otter
from tests.factories.train import Colours


def logits(model: Otter, trained: TrainedModel) -> torch.Tensor:
    prompts = [trained.encoder.encode(Colours().get(place)) for place in range(3)]
    batch = collate(prompts, pad=trained.encoder.special.pad, image_size=model.vision.image_size)
    pictures = normalise(batch.vision_x, model.vision.mean, model.vision.std)
    with torch.no_grad():
        found = model(pictures, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask).logits
    assert found is not None
    return found
