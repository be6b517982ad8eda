from __future__ import annotations

from typing import Any

import pytest
import torch

from mimicit.errors import TrainError
from otter_train.model import Otter
from tests.factories.otter import IDS, Inputs, greedy, inputs, otter

MIXED = [[1, 1, 1, 1, 1], [], [3], [1, 1]]
NEW = 12


@pytest.fixture(scope="module")
def model() -> Otter:
    return otter(seed=3)


def generate(model: Otter, batch: Inputs, **options: Any) -> list[list[int]]:
    return greedy(model, batch, NEW, **options)


def greedy_by_forward(model: Otter, row: Inputs) -> list[int]:
    """Greedy decoding with nothing but `Otter.forward`: what generation must equal."""
    ids = row.lang_x
    for _ in range(NEW):
        with torch.no_grad():
            logits = model(row.vision_x, ids, vision_mask=row.vision_mask).logits[0, -1]
        logits[IDS.image] = float("-inf")
        ids = torch.cat([ids, logits.argmax().reshape(1, 1)], dim=1)
    return ids[0, row.lang_x.shape[1] :].tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_is_that_of_full_forward_passes_for_every_row_of_a_batch(seed: int, use_cache: bool) -> None:
    model = otter(seed=seed)
    batch = inputs(MIXED, seed=seed)
    expected = [greedy_by_forward(model, batch.row(index)) for index in range(len(MIXED))]
    assert generate(model, batch.to_left(), use_cache=use_cache) == expected
    assert len({tuple(row) for row in expected}) > 1


def test_new_tokens_go_on_looking_at_the_last_picture(model: Otter) -> None:
    batch = inputs([[1, 1]], seed=5)
    seen: list[bool] = []
    block = model.language.blocks[0]
    handle = block.register_forward_pre_hook(lambda module, args: seen.append(bool(args[2].seeing[:, -1].all())))
    generate(model, batch)
    handle.remove()
    assert seen == [True] * NEW
    changed = batch.vision_x.clone()
    changed[:, 1] = -changed[:, 1]
    assert any(
        generate(model, inputs([[1, 1]], seed=seed)._replace(vision_x=changed))
        != generate(model, inputs([[1, 1]], seed=seed))
        for seed in range(5)
    )


@pytest.mark.parametrize("use_cache", [True, False])
def test_tokens_keep_their_position_whatever_the_padding_before_them(model: Otter, use_cache: bool) -> None:
    batch = inputs([[1, 1], [1]]).to_left()
    read: list[torch.Tensor] = []
    handle = model.language.lm.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["position_ids"]), with_kwargs=True
    )
    generate(model, batch, use_cache=use_cache)
    handle.remove()
    places = torch.cat(read, dim=1) if use_cache else read[-1]
    padding = batch.lang_x.shape[1] - batch.attention_mask.sum(1)
    for row, before in zip(places.tolist(), padding.tolist(), strict=True):
        assert row[before:] == list(range(len(row) - before))


def test_media_are_encoded_and_projected_once(model: Otter) -> None:
    calls: list[str] = []
    watched = {"vision": model.vision, "perceiver": model.perceiver} | {
        f"kv {number}": block.attn.to_kv for number, block in enumerate(model.language.blocks)
    }
    handles = [
        module.register_forward_hook(lambda module, args, out, name=name: calls.append(name))
        for name, module in watched.items()
    ]
    generate(model, inputs([[1]]))
    for handle in handles:
        handle.remove()
    assert sorted(calls) == sorted(watched)


def test_prompts_padded_on_the_right_raise(model: Otter) -> None:
    with pytest.raises(TrainError, match="pad prompts on the left"):
        generate(model, inputs([[1], [1, 1]]))
