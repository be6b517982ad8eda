"""Packed rows: documents side by side are what they are alone, whoever their neighbours and their decoder."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import TrainError
from otter_train.model import freeze, trainable_parameters
from otter_train.model.packing import Document, lay_out
from otter_train.model.speed import recompute_activations
from tests.factories.otter import IDS, LANGUAGES, inputs, otter, with_language
from tests.factories.packing import gradients, packed, packed_loss, padded_loss

ROWS = st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=4)
MODEL = otter()


@given(ROWS, st.sampled_from([1, 16]), st.integers(0, 3))
def test_every_document_has_the_loss_it_has_alone(rows: list[list[int]], multiple: int, seed: int) -> None:
    batch = inputs(rows, seed=seed)
    with torch.no_grad():
        mean, row_nats = padded_loss(MODEL, batch)
        packed_mean, packed_nats = packed_loss(MODEL, batch, multiple=multiple)
        alone = torch.cat([packed_loss(MODEL, batch.row(index))[1] for index in range(len(rows))])
    torch.testing.assert_close(packed_nats, row_nats, atol=1e-4, rtol=0)
    torch.testing.assert_close(packed_nats, alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(packed_mean, mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [[[1, 1], [], [3], [1]], [[], []], [[2]]])
def test_packing_changes_no_gradient(rows: list[list[int]]) -> None:
    model = otter().train()
    freeze(model, "full", train_vision=any(rows), train_language=True)
    batch = inputs(rows)
    expected = gradients(model, padded_loss(model, batch)[0])
    found = gradients(model, packed_loss(model, batch, multiple=32)[0])
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("name", sorted(LANGUAGES))
def test_every_decoder_either_packs_rightly_or_says_that_it_cannot(name: str) -> None:
    model = otter(with_language(name))
    batch = inputs([[1, 1], [], [1]])
    if not model.language.can_pack:
        with pytest.raises(TrainError, match="cannot read packed rows"):
            packed_loss(model, batch)
        return
    with torch.no_grad():
        torch.testing.assert_close(packed_loss(model, batch)[1], padded_loss(model, batch)[1], atol=1e-4, rtol=0)


def test_the_usual_decoders_pack() -> None:
    assert all(otter(with_language(name)).language.can_pack for name in ("gemma", "llama", "qwen2", "qwen3", "smollm"))


def test_a_neighbour_can_be_anything() -> None:
    """The pictures and words of one document change no bit of the sum of another's loss, before it or behind it."""
    batch = inputs([[1], [1], [1]])
    lang_x, vision_x = batch.lang_x.clone(), batch.vision_x.clone()
    lang_x[1, -3:] = torch.tensor([3, 4, 5])
    vision_x[1] += 1
    with torch.no_grad():
        before = packed_loss(MODEL, batch)[1]
        after = packed_loss(MODEL, batch._replace(lang_x=lang_x, vision_x=vision_x))[1]
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert before[1] != after[1]


def test_a_shared_medium_is_as_good_as_a_copy() -> None:
    model = otter().train()
    freeze(model, "full", train_vision=True)
    batch = inputs([[1, 2], [1, 2], [1, 2]])
    batch = batch._replace(vision_x=batch.vision_x[:1].expand_as(batch.vision_x))
    expected = gradients(model, padded_loss(model, batch)[0])
    vision_x, lang_x, packing = packed(batch, share=True)
    assert len(vision_x) == 3 and packing.frames.shape == (2, 2)
    found = gradients(model, model(vision_x, lang_x, packing=packing).loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("shown", [[], [0, 0], [0, 0, 0]])
def test_each_medium_needs_its_image_token(shown: Sequence[int]) -> None:
    ids = [5, IDS.image, 6, 7]
    if len(shown) == 3:
        ids = [IDS.image, *ids]
    with pytest.raises(TrainError, match="row 0 of the batch"):
        lay_out([Document(ids, ids, shown)], [1], image=IDS.image, pad=IDS.pad)


def test_nothing_labelled_is_a_loss_of_nought_with_gradients_of_nought() -> None:
    model = otter().train()
    freeze(model, "full")
    batch = inputs([[1], []])
    loss, row_nats = packed_loss(model, batch._replace(labels=torch.full_like(batch.labels, -100)))
    assert loss.item() == 0.0 and row_nats.tolist() == [0.0, 0.0]
    found = gradients(model, loss)
    assert found.keys() == {name for name, _ in trainable_parameters(model)}
    assert not any(gradient.any() for gradient in found.values())


def test_activation_checkpointing_sees_the_same_documents() -> None:
    model = otter().train()
    freeze(model, "input_only")
    batch = inputs([[1, 1], [], [1]])
    expected = gradients(model, packed_loss(model, batch)[0])
    recompute_activations(model, 1)
    found = gradients(model, packed_loss(model, batch)[0])
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_frozen_layers_keep_no_gradient_and_nothing_below_the_first_block_is_recorded() -> None:
    model = otter().train()
    freeze(model, "none")
    graphs: dict[int, bool] = {}
    for index, layer in enumerate(model.language.lm.model.layers):
        layer.register_forward_hook(lambda _, __, out, index=index: graphs.update({index: out.requires_grad}))
    loss, _ = packed_loss(model, inputs([[1, 1], [1]]))
    assert graphs == {0: False, 1: True, 2: True, 3: True}  # the first block stands before layer 1
    found = gradients(model, loss)
    assert found.keys() == {name for name, _ in trainable_parameters(model)}
    assert all(value.grad is None for value in model.parameters() if not value.requires_grad)
