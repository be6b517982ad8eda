"""What one forward pass promises: who sees what, and that neighbours and padding change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mimicit.errors import TrainError
from otter_train.model import Otter, TokenIds, freeze, trainable_parameters
from otter_train.model.perceiver import PerceiverResampler
from tests.factories.otter import IDS, Inputs, inputs, otter, trained_losses

MIXED = [[1, 1, 1, 1, 1], [], [3], [1]]
"""Five pictures, text only, a clip of three frames, one picture."""


@pytest.fixture(scope="module")
def model() -> Otter:
    return otter()


def logits(model: Otter, batch: Inputs) -> Tensor:
    with torch.no_grad():
        output = model(batch.vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask)
    assert output.loss is None
    assert output.logits is not None
    return output.logits


def test_text_before_any_picture_does_not_see_one(model: Otter) -> None:
    batch = inputs([[1]])
    other = batch._replace(vision_x=batch.vision_x + 1)
    moved = (logits(model, batch) - logits(model, other)).abs().amax(-1)[0]
    assert moved[:2].max() == 0
    assert (moved[2:] > 1e-6).all()


def test_text_sees_the_picture_before_it_and_no_later_one(model: Otter) -> None:
    batch = inputs([[1, 1]])
    changed = batch.vision_x.clone()
    changed[:, 1] += 1
    moved = (logits(model, batch) - logits(model, batch._replace(vision_x=changed))).abs().amax(-1)[0]
    second = int((batch.lang_x[0] == IDS.image).nonzero()[1])
    assert moved[:second].max() == 0
    assert (moved[second:] > 1e-6).all()


def test_cross_attention_itself_looks_at_the_last_picture_only() -> None:
    model = otter(every=4)  # one block, before the last layer: no way round through self-attention but that layer's
    for layer in model.language.lm.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    batch = inputs([[1, 1]])
    changed = batch.vision_x.clone()
    changed[:, 0] += 1
    moved = (logits(model, batch) - logits(model, batch._replace(vision_x=changed))).abs().amax(-1)[0]
    first, second = (batch.lang_x[0] == IDS.image).nonzero().flatten().tolist()
    assert (moved[first:second] > 1e-6).all()
    assert moved[:first].max() == 0 and moved[second:].max() == 0


def test_later_text_never_changes_earlier_logits(model: Otter) -> None:
    batch = inputs([[1, 1]])
    changed = batch.lang_x.clone()
    changed[0, 9:11] = torch.tensor([31, 32])
    before = logits(model, batch)[0, :9]
    torch.testing.assert_close(logits(model, batch._replace(lang_x=changed))[0, :9], before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", ["right", "left"])
def test_neighbours_and_padding_change_nothing(model: Otter, side: str) -> None:
    batch = inputs(MIXED)
    padded = batch.to_left() if side == "left" else batch
    together = logits(model, padded)
    assert together.isfinite().all()
    for index in range(len(MIXED)):
        alone = logits(model, batch.row(index))[0]
        real = padded.attention_mask[index].bool()
        torch.testing.assert_close(together[index][real], alone, atol=1e-5, rtol=0)


def test_absent_frames_are_never_read(model: Otter) -> None:
    batch = inputs(MIXED)
    poisoned = batch.vision_x.masked_fill(~batch.vision_mask[..., None, None, None], float("nan"))
    assert torch.equal(logits(model, batch._replace(vision_x=poisoned)), logits(model, batch))


def test_frames_and_media_are_different_axes(model: Otter) -> None:
    clip = inputs([[3]])
    with pytest.raises(TrainError, match="row 0 of the batch has 1 <image> tokens and 3 media"):
        logits(
            model, clip._replace(vision_x=clip.vision_x.transpose(1, 2), vision_mask=clip.vision_mask.transpose(1, 2))
        )


def test_no_mask_means_that_every_frame_is_there(model: Otter) -> None:
    batch = inputs([[2, 2], [2, 2]])
    with torch.no_grad():
        plain = model(batch.vision_x, batch.lang_x).logits
    assert torch.equal(plain, logits(model, batch))


def test_loss_is_the_mean_cross_entropy_of_the_labelled_tokens(model: Otter) -> None:
    batch = inputs(MIXED)
    output = model(batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels, vision_mask=batch.vision_mask)
    by_hand = [
        -F.log_softmax(output.logits[row, place - 1], dim=-1)[batch.labels[row, place]]
        for row, place in (batch.labels != -100).nonzero().tolist()
    ]
    torch.testing.assert_close(output.loss, torch.stack(by_hand).mean())
    few = model(
        batch.vision_x,
        batch.lang_x,
        batch.attention_mask,
        batch.labels,
        vision_mask=batch.vision_mask,
        keep_logits=False,
    )
    assert few.logits is None
    torch.testing.assert_close(few.loss, output.loss)


@pytest.mark.parametrize("keep_logits", [True, False])
def test_a_batch_without_labels_has_loss_zero_and_gradients_zero(keep_logits: bool) -> None:
    model = otter()
    batch = inputs(MIXED)
    output = model(
        batch.vision_x,
        batch.lang_x,
        batch.attention_mask,
        torch.full_like(batch.labels, -100),
        vision_mask=batch.vision_mask,
        keep_logits=keep_logits,
    )
    assert output.loss.item() == 0.0
    output.loss.backward()
    for name, parameter in trainable_parameters(model):
        assert parameter.grad is not None and parameter.grad.count_nonzero() == 0, name


@pytest.mark.parametrize("rows", [MIXED, [[], []], [[1]]], ids=["mixed", "text only", "one picture"])
def test_every_batch_trains_every_trained_parameter_and_no_frozen_one(rows: list[list[int]]) -> None:
    model = otter()
    freeze(model, embeddings="full", train_vision=True)
    batch = inputs(rows)
    output = model(batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels, vision_mask=batch.vision_mask)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    seen = model.perceiver.latents.grad
    assert seen is not None and bool(seen.count_nonzero()) == any(rows)


def test_training_lowers_the_loss_from_closed_gates() -> None:
    model = otter(gate=None).train()
    freeze(model, embeddings="full", train_vision=True, train_language=True)
    batch = inputs(MIXED)
    losses = trained_losses(model, batch, steps=12)
    assert losses[-1] < 0.5 * losses[0]
    assert all(block.attn_gate.item() != 0 for block in model.language.blocks)


def test_a_row_whose_images_and_media_differ_in_number_is_named(model: Otter) -> None:
    batch = inputs([[1], [1, 1]])
    fewer = batch.lang_x.clone()
    fewer[1, int((fewer[1] == IDS.image).nonzero()[1])] = 5
    with pytest.raises(TrainError, match="row 1 of the batch has 1 <image> tokens and 2 media"):
        logits(model, batch._replace(lang_x=fewer))
    more = batch.lang_x.clone()
    more[0, 0] = IDS.image
    with pytest.raises(TrainError, match="row 0 of the batch has 2 <image> tokens and 1 media"):
        logits(model, batch._replace(lang_x=more))


def test_a_gap_between_media_raises(model: Otter) -> None:
    batch = inputs([[1], [1, 1, 1]])
    mask = batch.vision_mask.clone()
    mask[0, :, 0] = torch.tensor([False, True, False])
    with pytest.raises(TrainError, match=r"row 0 .* with a gap between them"):
        logits(model, batch._replace(vision_mask=mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_x": torch.zeros(1, 1, 3, 16, 16)}, r"must be \(B, T_img, F, 3, 16, 16\)"),
        ({"vision_x": torch.zeros(1, 1, 1, 3, 8, 8)}, r"must be \(B, T_img, F, 3, 16, 16\)"),
        ({"vision_x": torch.zeros(2, 1, 1, 3, 16, 16)}, "vision_x has 2 rows and lang_x 1"),
        ({"vision_mask": torch.ones(1, 1, dtype=torch.bool)}, "vision_mask has shape"),
    ],
)
def test_wrong_shapes_raise(model: Otter, change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        logits(model, inputs([[1]])._replace(**change))


def test_towers_and_perceivers_of_different_widths_raise(model: Otter) -> None:
    with pytest.raises(TrainError, match="width 24, the perceiver takes 16"):
        Otter(
            vision=model.vision,
            perceiver=PerceiverResampler(16),
            language=model.language.lm,
            token_ids=TokenIds(image=1, endofchunk=2, answer=3, pad=0),
            cross_attention_every=2,
        )


def test_bfloat16_autocast_stays_close_and_keeps_the_loss_in_float32(model: Otter) -> None:
    batch = inputs(MIXED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels, vision_mask=batch.vision_mask)
    assert output.loss.dtype == output.logits.dtype == torch.float32
    exact = model(batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels, vision_mask=batch.vision_mask)
    torch.testing.assert_close(output.loss, exact.loss, atol=0.02, rtol=0)
