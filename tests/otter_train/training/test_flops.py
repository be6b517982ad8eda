"""Counts of operations, against those made by hand for LLaMA-7B and ViT-L/14."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from dataclasses import replace

import torch

from otter_train.model import Otter, TokenIds, build_model, freeze, preset
from otter_train.model.config import PerceiverConfig
from otter_train.training.flops import Flops, Work, count_flops, matmul_flops_per_s
from tests.factories.otter import VISIONS, otter, with_vision

LAYER = 4 * 4096**2 + 3 * 4096 * 11008  # weights of a decoder layer
BLOCK = 2 * 4096 * 512 + 2 * 4096 * 4 * 4096  # of a cross-attention block, without the keys of media
HEAD = 32004 * 4096
KEYS = 1024 * 1024  # of the media in one block


@pytest.fixture(scope="module")
def otter_9b() -> Otter:
    ids = TokenIds(image=32001, endofchunk=32000, answer=32002, pad=32003)
    return build_model(preset("otter-9b"), vocab_size=32004, token_ids=ids, device="meta", load_weights=False)


def test_the_paper_s_model(otter_9b: Otter) -> None:
    freeze(otter_9b, "full")
    flops = count_flops(otter_9b)
    assert flops.token == 4 * 32 * LAYER + 6 * 8 * BLOCK
    assert flops.label == 6 * HEAD
    assert flops.token + flops.label == pytest.approx(33.3e9, rel=0.005)
    keys = 8 * 64 * 6 * KEYS  # of 64 media tokens in each of 8 blocks, which the rounded counts leave out
    assert flops.picture - keys == pytest.approx(197e9, rel=0.005)
    assert flops.of(Work(tokens=10, pictures=2, labelled=3)) == 10 * flops.token + 2 * flops.picture + 3 * flops.label


def test_what_needs_no_gradient_does_not_count(otter_9b: Otter) -> None:
    freeze(otter_9b, "full")
    full = count_flops(otter_9b)
    freeze(otter_9b, "none")
    none = count_flops(otter_9b)
    # No gradient goes below the first block, before layer 3, nor into the text that this block sees.
    spared = 2 * 3 * LAYER + 2 * BLOCK
    assert full.token - none.token == pytest.approx(spared, rel=0.02)
    assert none.label == 4 * HEAD and none.picture == full.picture
    freeze(otter_9b, "full", train_vision=True, train_language=True)
    everything = count_flops(otter_9b)
    assert everything.token == 6 * (32 * LAYER + 8 * BLOCK)
    assert everything.picture - full.picture == pytest.approx(2 * 162e9, rel=0.005)


def test_the_tower_does_not_count_where_its_tokens_are_at_hand(otter_9b: Otter) -> None:
    freeze(otter_9b, "full")
    whole, cached = count_flops(otter_9b), count_flops(otter_9b, with_tower=False)
    assert whole.picture - cached.picture == pytest.approx(162e9, rel=0.005)
    assert (whole.token, whole.label) == (cached.token, cached.label)


def test_a_narrow_perceiver_costs_its_projection_and_what_is_left_of_it() -> None:
    narrow = replace(preset("otter-9b"), perceiver=PerceiverConfig(width=64))
    ids = TokenIds(image=32001, endofchunk=32000, answer=32002, pad=32003)
    model = build_model(narrow, vocab_size=32004, token_ids=ids, device="meta", load_weights=False)
    freeze(model, "full")
    layers, latents, patches, inner = 6, 64, 256, 512
    projection = patches * 4 * 1024 * 64  # the tower is frozen: nothing is asked of its tokens
    per_layer = latents * 6 * (4 * 64 * inner + 2 * 64 * 4 * 64) + patches * 6 * 2 * 64 * inner
    scores = 3 * 2 * 2 * latents * (latents + patches) * inner
    keys = latents * 6 * 8 * 64 * 2 * 512
    expected = projection + layers * (per_layer + scores) + keys
    assert count_flops(model, with_tower=False).picture == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", sorted(VISIONS))
def test_every_tower_can_be_counted(name: str) -> None:
    model = otter(with_vision(name))
    freeze(model, "new_rows")
    before = [parameter.clone() for parameter in model.parameters()]
    flops = count_flops(model)
    assert isinstance(flops, Flops) and min(flops.token, flops.label, flops.picture) > 0
    assert all(torch.equal(was, now) for was, now in zip(before, model.parameters(), strict=True))


def test_the_measured_ceiling_is_a_rate() -> None:
    assert 1e7 < matmul_flops_per_s(torch.device("cpu"), torch.float32) < 1e14
