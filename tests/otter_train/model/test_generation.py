from __future__ import annotations

import pytest
import torch

from mimicit.errors import TrainError, UsageError
from otter_train.model import Otter
from tests.factories.otter import IDS, Inputs, inputs, otter

MIXED = [[1, 1, 1, 1, 1], [], [3], [1, 1]]
NEW = 12


@pytest.fixture(scope="module")
def model() -> Otter:
    return otter(seed=3)


def generate(model: Otter, batch: Inputs, **options: object) -> list[list[int]]:
    settings = {"max_new_tokens": NEW, "eos_token_ids": (), **options}
    return model.generate(batch.vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask, **settings)


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


def test_rows_stop_on_their_own_and_without_the_stop_token(model: Otter) -> None:
    batch = inputs(MIXED).to_left()
    whole = generate(model, batch)
    stop = {whole[0][4], whole[2][1]}
    expected = []
    for row in whole:
        ends = [place for place, token in enumerate(row) if token in stop]
        expected.append(row[: ends[0]] if ends else row)
    assert generate(model, batch, eos_token_ids=stop) == expected
    assert generate(model, batch, eos_token_ids=range(40)) == [[]] * len(MIXED)


def test_image_is_never_generated() -> None:
    model = otter()
    head = model.language.lm.get_output_embeddings()
    batch = inputs([[1]])
    with torch.no_grad():  # a head that always wants <image>
        head.weight.zero_()
        state = []
        handle = head.register_forward_pre_hook(lambda module, args: state.append(args[0]))
        generate(model, batch, max_new_tokens=1)
        handle.remove()
        head.weight[IDS.image] = state[0][0]
    assert IDS.image not in generate(model, batch)[0]
    assert IDS.image not in generate(model, batch, temperature=1.0)[0]


def test_sampling_is_decided_by_the_generator(model: Otter) -> None:
    batch = inputs(MIXED).to_left()

    def sample(seed: int, temperature: float = 1.0) -> list[list[int]]:
        return generate(model, batch, temperature=temperature, generator=torch.Generator().manual_seed(seed))

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(1, temperature=1e-4) == generate(model, batch)


def test_generation_leaves_the_modes_and_gradients_as_they_were() -> None:
    model = otter().train()
    model.vision.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    generate(model, inputs([[1]]))
    with pytest.raises(TrainError):
        generate(model, inputs([[1], [1, 1]]))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(p.grad is None and p.requires_grad == (not name.startswith("vision.model.post_layernorm"))
               for name, p in model.named_parameters())  # fmt: skip


def test_prompts_padded_on_the_right_raise(model: Otter) -> None:
    with pytest.raises(TrainError, match="pad prompts on the left"):
        generate(model, inputs([[1], [1, 1]]))


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"temperature": -1.0}])
def test_impossible_options_raise(model: Otter, options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        generate(model, inputs([[1]]), **options)
