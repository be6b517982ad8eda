"""Batches: shapes and padding."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch

from otter_train.data import Batch, collate
from otter_train.encoding import IGNORED, PromptEncoder
from tests.factories.train import TOKENIZER, image, png, sample, triplet

ENCODER = PromptEncoder(TOKENIZER)
PAD = ENCODER.special.pad
RED, GREEN, BLUE = png((255, 0, 0)), png((0, 255, 0)), png((0, 0, 255))


def mixed(pad_left: bool = False) -> Batch:
    """Two pictures; one clip of three frames; no media at all."""
    pictures = sample(
        triplet(media=[0]), triplet("longer question?", media=[1]), media=[image(RED), image(GREEN)], id="a"
    )
    clip = sample(triplet(media=[0]), media=[image(RED, GREEN, BLUE, kind="video")], id="b")
    text = sample(triplet("no picture"), id="c")
    prompts = [ENCODER.encode(one) for one in (pictures, clip, text)]
    return collate(prompts, pad=PAD, image_size=8, pad_left=pad_left)


def test_pictures_lie_along_media_and_frames_along_frames() -> None:
    batch = mixed()
    assert batch.vision_x.shape == (3, 2, 3, 3, 8, 8) and batch.vision_x.dtype == torch.uint8
    assert batch.vision_mask.tolist() == [[[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    channel = {name: index for index, name in enumerate(("red", "green", "blue"))}
    assert (batch.vision_x[0, 1, 0, channel["green"]] == 255).all()  # the second picture of the first sample
    assert (batch.vision_x[1, 0, 2, channel["blue"]] == 255).all()  # the third frame of the clip
    assert not batch.vision_x[~batch.vision_mask].any()
    shown = batch.vision_mask.any(-1).sum(-1)
    assert torch.equal(shown, (batch.lang_x == ENCODER.special.image).sum(-1))


@pytest.mark.parametrize("pad_left", [False, True])
def test_padding_is_masked_and_never_learnt(pad_left: bool) -> None:
    batch = mixed(pad_left)
    padding = ~batch.attention_mask
    assert (batch.lang_x[padding] == PAD).all() and (batch.labels[padding] == IGNORED).all()
    edge = batch.attention_mask[:, -1 if pad_left else 0]
    assert edge.all() and padding.any()
    learnt = batch.labels != IGNORED
    assert torch.equal(batch.labels[learnt], batch.lang_x[learnt])
    assert batch.labelled == int(learnt.sum())
    assert batch.ids == ("a", "b", "c")
    assert sum(batch.learnt) == batch.labelled and batch.learnt == learnt.sum(dim=1).tolist()
