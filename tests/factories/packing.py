"""Rows of a batch side by side in one, and what they give."""

from __future__ import annotations

import torch
from torch import Tensor

from otter_train.model import Otter, trainable_parameters
from otter_train.model.packing import Document, Packing, lay_out
from tests.factories.otter import IDS, Inputs


def packed(batch: Inputs, *, multiple: int = 1, share: bool = False) -> tuple[Tensor, Tensor, Packing]:
    """The rows of a padded batch in one row; with ``share`` all of them show the media of the first."""
    documents, pictures = [], []
    counts: list[int] = []
    for index in range(len(batch.lang_x)):
        row = batch.row(index)
        first = 0 if share else len(counts)
        media = range(first, first + row.vision_x.shape[1])
        documents.append(Document(row.lang_x[0].tolist(), row.labels[0].tolist(), list(media)))
        if share and index:
            continue
        for place in range(row.vision_x.shape[1]):
            counts.append(int(row.vision_mask[0, place].sum()))
            pictures.append(row.vision_x[0, place, : counts[-1]])
    lang_x, packing = lay_out(documents, counts, image=IDS.image, pad=IDS.pad, multiple=multiple)
    return torch.cat(pictures) if pictures else torch.zeros(1, 3, 16, 16), lang_x, packing


def padded_loss(model: Otter, batch: Inputs) -> tuple[Tensor, Tensor]:
    output = model(
        batch.vision_x,
        batch.lang_x,
        batch.attention_mask,
        batch.labels,
        vision_mask=batch.vision_mask,
        keep_logits=False,
    )
    return output.loss, output.row_nats


def packed_loss(model: Otter, batch: Inputs, multiple: int = 1) -> tuple[Tensor, Tensor]:
    vision_x, lang_x, packing = packed(batch, multiple=multiple)
    output = model(vision_x, lang_x, packing=packing)
    return output.loss, output.row_nats


def gradients(model: Otter, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: value.grad.clone() for name, value in trainable_parameters(model) if value.grad is not None}
