"""Who sees what, for any prompt: text and media in any order, media of any number of frames, rows side by side."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.model import Otter, freeze
from tests.factories.otter import IDS, Inputs, inputs, otter, trained_losses

WORD = 0
"""In the rows below: a word. A number above it: a medium of that many frames."""

ROW = st.lists(st.integers(0, 3), min_size=1, max_size=9)
SHOWING = ROW.filter(any)

MODEL = otter()


def batch_of(rows: Sequence[Sequence[int]], *, seed: int = 0) -> Inputs:
    """The rows padded on the right, with random words and pictures; two rows that are equal have equal contents."""
    texts, media, frames = max(map(len, rows)), max(sum(map(bool, row)) for row in rows), max(map(max, rows))
    vision_x = torch.zeros(len(rows), media, max(1, frames), 3, 16, 16)
    vision_mask = torch.zeros(vision_x.shape[:3], dtype=torch.bool)
    lang_x = torch.full((len(rows), texts), IDS.pad)
    mask = torch.zeros(len(rows), texts, dtype=torch.long)
    for number, row in enumerate(rows):
        generator = torch.Generator().manual_seed(seed)
        words = torch.randint(1, 30, (len(row),), generator=generator)
        lang_x[number, : len(row)] = torch.where(torch.tensor(row) == WORD, words, IDS.image)
        mask[number, : len(row)] = 1
        for place, count in enumerate(filter(None, row)):
            vision_x[number, place, :count] = torch.randn(count, 3, 16, 16, generator=generator)
            vision_mask[number, place, :count] = True
    return Inputs(vision_x, lang_x, mask, lang_x.clone(), vision_mask)


def logits(batch: Inputs, model: Otter = MODEL) -> Tensor:
    with torch.no_grad():
        output = model(batch.vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask)
    assert output.logits is not None
    return output.logits


def moved(one: Tensor, other: Tensor) -> Tensor:
    """How far the logits of each position are apart."""
    return (one - other).abs().amax(-1)[0]


@given(ROW)
def test_text_before_any_picture_gets_exactly_zero_from_all_pictures(row: list[int]) -> None:
    batch = batch_of([row])
    first = next((place for place, kind in enumerate(row) if kind != WORD), len(row))
    distance = moved(logits(batch), logits(batch._replace(vision_x=batch.vision_x + 1)))
    assert not distance[:first].any()
    assert (distance[first:] > 0).all()


@given(SHOWING, st.data())
def test_changing_a_picture_changes_nothing_before_its_image(row: list[int], data: st.DataObject) -> None:
    places = [place for place, kind in enumerate(row) if kind != WORD]
    which = data.draw(st.integers(0, len(places) - 1))
    batch = batch_of([row])
    other = batch.vision_x.clone()
    other[0, which] += 1
    distance = moved(logits(batch), logits(batch._replace(vision_x=other)))
    assert not distance[: places[which]].any()
    assert (distance[places[which] :] > 0).any()


@given(SHOWING, st.data())
def test_a_token_attends_to_the_last_picture_before_it_and_to_no_other(row: list[int], data: st.DataObject) -> None:
    """One layer of cross-attention, seen on its own: the mask itself, with nothing to carry pictures further."""
    block = MODEL.language.blocks[0].attn
    batch = batch_of([row])
    which = data.draw(st.integers(0, sum(map(bool, row)) - 1))
    other = batch.vision_x.clone()
    other[0, which] += 1
    queries = torch.randn(1, len(row), 32, generator=torch.Generator().manual_seed(0))
    seen = []
    for vision_x in (batch.vision_x, other):
        caught: list[Tensor] = []
        handle = block.register_forward_hook(
            lambda module, args, out, caught=caught: caught.append(module.forward(queries, *args[1:]))
        )
        logits(batch._replace(vision_x=vision_x))
        handle.remove()
        seen.append(caught[0])
    shown = torch.tensor([kind != WORD for kind in row]).cumsum(0)
    distance = moved(*seen)
    assert (distance[shown == which + 1] > 0).all()
    assert not distance[shown != which + 1].any()
    assert not seen[0][0, shown == 0].any()


@given(ROW, ROW, st.integers(0, 3))
def test_later_text_and_pictures_change_nothing_earlier(row: list[int], later: list[int], seed: int) -> None:
    begin = logits(batch_of([row], seed=seed))[0]
    whole = batch_of([[*row, *later]], seed=seed)
    short = batch_of([row], seed=seed)
    whole.lang_x[0, : len(row)] = short.lang_x[0]
    for place in range(short.vision_x.shape[1]):
        frames = int(short.vision_mask[0, place].sum())
        whole.vision_x[0, place, :frames] = short.vision_x[0, place, :frames]
    torch.testing.assert_close(logits(whole)[0, : len(row)], begin, atol=1e-5, rtol=0)


@given(st.lists(ROW, min_size=2, max_size=4), st.booleans())
def test_padding_and_neighbours_change_nothing(rows: list[list[int]], left: bool) -> None:
    batch = batch_of(rows)
    batch = batch.to_left() if left else batch
    together = logits(batch)
    for number, row in enumerate(rows):
        alone = logits(batch_of([row]))[0]
        real = batch.attention_mask[number].bool()
        torch.testing.assert_close(together[number][real], alone, atol=1e-5, rtol=0)


@given(ROW, st.integers(-2, 2).filter(bool))
def test_another_number_of_images_than_pictures_raises(row: list[int], change: int) -> None:
    shown = sum(map(bool, row))
    pictures = max(0, shown + change)
    if pictures == shown:
        pictures = shown + 1
    with pytest.raises(TrainError, match=rf"row 0 of the batch has {shown} <image> tokens and {pictures} media"):
        logits(batch_of([row])._replace(vision_x=torch.zeros(1, pictures, 1, 3, 16, 16), vision_mask=None))


def test_three_pictures_and_a_clip_of_three_frames_are_different_things() -> None:
    pictures, clip = batch_of([[1, 0, 1, 0, 1, 0]]), batch_of([[3, 0, 0]])
    assert pictures.vision_x.shape[:3] == (1, 3, 1) and clip.vision_x.shape[:3] == (1, 1, 3)
    clip = clip._replace(vision_x=pictures.vision_x.transpose(1, 2))  # the same three pictures, as frames
    with torch.no_grad():
        three = MODEL.encode_vision(pictures.vision_x)
        one = MODEL.encode_vision(clip.vision_x)
        tokens = MODEL.vision(pictures.vision_x.flatten(0, 2))
        assert three.shape == (1, 3, 3, 24) and one.shape == (1, 1, 3, 24)
        # Each picture is resampled by itself; the frames of a clip are resampled together.
        torch.testing.assert_close(three, MODEL.perceiver(tokens[None, :, None]), atol=1e-6, rtol=0)
        torch.testing.assert_close(one, MODEL.perceiver(tokens[None, None]), atol=1e-6, rtol=0)
    asked = torch.tensor([[IDS.image, 5, 6]])
    about_clip = logits(clip._replace(lang_x=asked, attention_mask=torch.ones_like(asked)))
    for place in range(3):
        alone = pictures.vision_x[:, place : place + 1]
        about_picture = MODEL(alone, asked).logits
        assert (about_picture - about_clip).abs().max() > 1e-4


def test_the_order_of_pictures_matters() -> None:
    batch = batch_of([[1, 0, 1, 0]])
    swapped = logits(batch._replace(vision_x=batch.vision_x.flip(1)))
    assert (moved(logits(batch), swapped) > 1e-5).all()


def test_a_batch_of_no_one_and_five_pictures_and_a_long_clip_trains() -> None:
    model = otter(gate=None).train()
    freeze(model, embeddings="full")
    batch = inputs([[], [1], [1] * 5, [32]])
    assert batch.vision_x.shape[:3] == (4, 5, 32)
    losses = trained_losses(model, batch, steps=10)
    assert losses[-1] < 0.6 * losses[0]
