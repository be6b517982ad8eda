from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from mimicit.errors import TrainError
from otter_train.model.vision import (
    CLIP_MEAN,
    CLIP_STD,
    ClipTower,
    ConvStem,
    OpenClipTower,
    TransformersTower,
    VisionTower,
)


def open_clip_visual(**changes: Any) -> Any:
    transformer = pytest.importorskip("open_clip.transformer", reason="the open_clip tower needs open_clip")
    torch.manual_seed(0)
    shape = {"image_size": 16, "patch_size": 8, "width": 24, "layers": 2, "heads": 2, "mlp_ratio": 2, "output_dim": 8}
    return transformer.VisionTransformer(**shape | changes)


def clip_model() -> CLIPVisionModel:
    torch.manual_seed(0)
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
    )


@pytest.fixture(params=["transformers", "conv stem", "open_clip"])
def tower(request: pytest.FixtureRequest) -> VisionTower:
    if request.param == "open_clip":
        return OpenClipTower(open_clip_visual())
    return ClipTower(clip_model(), conv_stem=request.param == "conv stem")


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def final_norm(tower: VisionTower) -> torch.nn.LayerNorm:
    norm = tower.model.post_layernorm if isinstance(tower, TransformersTower) else tower.visual.ln_post
    assert isinstance(norm, torch.nn.LayerNorm)
    return norm


def last_block_tokens(tower: VisionTower, pictures: Tensor) -> Tensor:
    """The patch tokens that leave the last block, caught on the way."""
    block = (
        tower.model.encoder.layers[-1]
        if isinstance(tower, TransformersTower)
        else tower.visual.transformer.resblocks[-1]
    )
    caught: list[Tensor] = []
    handle = block.register_forward_hook(lambda module, args, out: caught.append(out))
    tower(pictures)
    handle.remove()
    return caught[0][:, 1:]


def test_tokens_are_those_of_the_last_block_without_the_class_token(tower: VisionTower, pictures: Tensor) -> None:
    # A trained LayerNorm is no identity: with a random one, tokens taken after it cannot pass.
    torch.nn.init.normal_(final_norm(tower).weight, mean=2.0)
    torch.nn.init.normal_(final_norm(tower).bias)
    tokens = tower(pictures)
    assert tokens.shape == (3, 4, tower.dim)
    assert torch.equal(tokens, last_block_tokens(tower, pictures))


def test_the_trap_is_real_and_the_tower_steps_around_it(pictures: Tensor) -> None:
    visual = open_clip_visual(output_tokens=True)
    torch.nn.init.normal_(visual.ln_post.weight, mean=2.0)
    trapped = visual(pictures)[1].detach()
    assert (OpenClipTower(visual)(pictures) - trapped).abs().max() > 0.1


def test_pictures_are_encoded_one_by_one(tower: VisionTower, pictures: Tensor) -> None:
    torch.testing.assert_close(tower(pictures)[1:2], tower(pictures[1:2]))  # convolutions round by the batch


def test_a_frozen_tower_records_no_gradient_and_a_trained_one_does(tower: VisionTower, pictures: Tensor) -> None:
    assert tower(pictures).requires_grad
    tower.set_trainable(False)
    assert not tower(pictures.requires_grad_()).requires_grad
    with torch.no_grad():
        tower.set_trainable(True)
        assert not tower(pictures).requires_grad


def test_a_frozen_tower_takes_a_few_pictures_at_a_time(tower: VisionTower, monkeypatch: pytest.MonkeyPatch) -> None:
    many = torch.randn(150, 3, tower.image_size, tower.image_size, generator=torch.Generator().manual_seed(0))
    sizes = []
    patch_tokens = tower.patch_tokens

    def counted(some: Tensor) -> Tensor:
        sizes.append(len(some))
        return patch_tokens(some)

    monkeypatch.setattr(tower, "patch_tokens", counted)
    tower.set_trainable(False)
    torch.testing.assert_close(tower(many), patch_tokens(many), rtol=1e-4, atol=1e-5)
    assert sizes == [64, 64, 22]
    tower.set_trainable(True)
    tower(many[:66])
    assert sizes[-1] == 66  # with a gradient everything is kept anyway


def test_on_a_cpu_so_few_that_what_is_between_the_layers_stays_in_its_caches(
    tower: VisionTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    patch_tokens = tower.patch_tokens

    def watched(pictures: Tensor) -> Tensor:
        seen.append(len(pictures))
        return patch_tokens(pictures)

    many = torch.zeros(7, 3, 16, 16)
    whole = tower.eval().requires_grad_(False)(many)
    monkeypatch.setattr(tower, "patch_tokens", watched)
    monkeypatch.setattr("otter_train.model.vision._PIXELS_AT_ONCE", 3 * 16 * 16)
    torch.testing.assert_close(tower(many), whole)
    monkeypatch.setattr("otter_train.model.vision._PIXELS_AT_ONCE", 1)
    torch.testing.assert_close(tower(many), whole)
    assert seen == [3, 3, 1] + [1] * 7


def test_every_trainable_parameter_gets_a_gradient(tower: VisionTower, pictures: Tensor) -> None:
    tower(pictures).square().sum().backward()
    idle = {name for name, p in tower.named_parameters() if p.requires_grad and p.grad is None}
    assert idle == set()
    assert not any(p.requires_grad for p in final_norm(tower).parameters())


def test_the_tower_says_what_it_takes_and_gives(tower: VisionTower) -> None:
    assert (tower.dim, tower.image_size, tower.mean, tower.std) == (24, 16, CLIP_MEAN, CLIP_STD)


def test_a_convolutional_stem_needs_a_patch_that_can_be_halved_down() -> None:
    with pytest.raises(TrainError, match="a patch of 6 pixels"):
        ConvStem(24, 6)


def test_towers_without_plain_patch_tokens_raise() -> None:
    visual = open_clip_visual(attentional_pool=True, attn_pooler_heads=2, output_dim=24)
    with pytest.raises(TrainError, match="no plain patch tokens"):
        OpenClipTower(visual)
    with pytest.raises(TrainError, match="16x32"):
        OpenClipTower(open_clip_visual(image_size=(16, 32)))
