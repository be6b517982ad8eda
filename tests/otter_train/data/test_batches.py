"""Batches: shapes and padding."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch

import otter_train.data.batches
from otter_train.data.batches import Batch, collate, normalise
from otter_train.data.encoding import PromptEncoder
from otter_train.model import Otter, TokenIds, build_model
from otter_train.model.packing import IGNORED
from tests.factories.train import MINUTE_MODEL, TOKENIZER, conversation, image, png, sample, triplet

ENCODER = PromptEncoder(TOKENIZER)
PAD = ENCODER.special.pad
RED, GREEN, BLUE = png((255, 0, 0)), png((0, 255, 0)), png((0, 0, 255))


SHOWN_AGAIN = [
    sample(triplet(media=[0]), triplet(media=[1]), media=[image(RED), image(GREEN)], id="pictures"),
    sample(triplet(media=[0]), media=[image(GREEN, RED, BLUE, kind="video")], id="clip"),
    sample(triplet("no picture"), id="text"),
]


def otter_of_minutes() -> Otter:
    torch.manual_seed(0)
    special = ENCODER.special
    ids = TokenIds(image=special.image, endofchunk=special.endofchunk, answer=special.answer, pad=special.pad)
    return build_model(MINUTE_MODEL, vocab_size=len(TOKENIZER), token_ids=ids).eval()


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


def test_a_picture_is_decoded_and_encoded_once_however_often_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = otter_train.data.batches.decode_media
    monkeypatch.setattr(otter_train.data.batches, "decode_media", lambda *given: decoded.append(1) or decode(*given))
    prompts = [ENCODER.encode(one) for one in (conversation(), *SHOWN_AGAIN)]
    batch = collate(prompts, pad=PAD, image_size=16)
    stored = {data for prompt in prompts for medium in prompt.sample.media for data in medium.data}
    shown = batch.vision_x[batch.vision_mask]
    assert len(decoded) == len({medium.data for prompt in prompts for medium in prompt.sample.media}) < len(shown)
    assert batch.pictures == len(stored) == len({tuple(one.flatten().tolist()) for one in shown})
    assert torch.equal(batch.vision_x.flatten(0, 2)[batch.firsts[batch.vision_mask]], shown)

    built = otter_of_minutes()
    passed: list[int] = []
    built.vision.register_forward_hook(lambda module, given, out: passed.append(len(given[0])))
    pictures = normalise(batch.vision_x, built.vision.mean, built.vision.std)
    found = built(pictures, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask, firsts=batch.firsts)
    apart = built(pictures, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask)
    assert passed == [len(stored), len(shown)]
    torch.testing.assert_close(found.logits, apart.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad_left", [False, True])
def test_padding_is_masked_and_never_learnt(pad_left: bool) -> None:
    batch = mixed(pad_left)
    padding = ~batch.attention_mask
    assert (batch.lang_x[padding] == PAD).all() and (batch.labels[padding] == IGNORED).all()
    edge = batch.attention_mask[:, -1 if pad_left else 0]
    assert edge.all() and padding.any()
    learned = batch.labels != IGNORED
    assert torch.equal(batch.labels[learned], batch.lang_x[learned])
    assert batch.labelled == int(learned.sum())
    assert batch.ids == ("a", "b", "c")
    assert sum(batch.labelled_per_sample) == batch.labelled and batch.labelled_per_sample == learned.sum(dim=1).tolist()
