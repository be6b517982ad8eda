"""Every family of language models and vision towers keeps the promises of the model around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageClassification

from mimicit.errors import TrainError
from otter_train.model import Otter, build_model, freeze, preset, with_pretrained
from otter_train.model.build import language_config
from otter_train.model.language import decoder_layers
from otter_train.model.vision import NORMALISATION, transformers_tower
from tests.factories.otter import (
    CONFIG,
    IDS,
    LANGUAGES,
    VISIONS,
    VOCABULARY,
    Inputs,
    greedy,
    inputs,
    otter,
    with_language,
    with_vision,
)

MIXED = [[1, 1, 1], [], [2], [1]]
NEW = 6


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=VISIONS)
def vision(request: pytest.FixtureRequest) -> str:
    if request.param == "open_clip":
        pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    return request.param


def logits(model: Otter, batch: Inputs) -> Tensor:
    with torch.no_grad():
        found = model(batch.vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask).logits
    assert found is not None
    return found


def test_closed_gates_are_the_plain_language_model_bit_for_bit(language: str) -> None:
    config = with_language(language)
    torch.manual_seed(7)
    plain = AutoModelForCausalLM.from_config(language_config(config.language, VOCABULARY), dtype=torch.float32).eval()
    model = otter(config, gate=None)
    assert list(model.language.lm.state_dict()) == list(plain.state_dict())  # native keys
    model.language.lm.load_state_dict(plain.state_dict())
    batch = inputs([[1, 1], [2, 1]])
    with torch.no_grad():
        expected = plain(input_ids=batch.lang_x).logits.float()
    assert torch.equal(logits(model, batch), expected)


def test_open_gates_show_each_picture_to_what_follows(language: str) -> None:
    model, batch = otter(with_language(language)), inputs([[1, 1]])
    other = batch.vision_x.clone()
    other[:, 1] += 1
    moved = (logits(model, batch) - logits(model, batch._replace(vision_x=other))).abs().amax(-1)[0]
    second = int((batch.lang_x[0] == IDS.image).nonzero()[1])
    assert moved[:second].max() == 0 and (moved[second:] > 1e-6).all()


def test_cached_greedy_is_that_of_full_forward_passes(language: str) -> None:
    model, batch = otter(with_language(language), seed=2), inputs(MIXED, seed=2)
    expected = []
    for index in range(len(MIXED)):
        row = batch.row(index)
        ids = row.lang_x
        for _ in range(NEW):
            scores = logits(model, row._replace(lang_x=ids, attention_mask=torch.ones_like(ids)))[0, -1]
            scores[IDS.image] = float("-inf")
            ids = torch.cat([ids, scores.argmax().reshape(1, 1)], dim=1)
        expected.append(ids[0, row.lang_x.shape[1] :].tolist())
    left = batch.to_left()
    for use_cache in (True, False):
        assert greedy(model, left, NEW, use_cache=use_cache) == expected


@pytest.mark.parametrize("side", ["right", "left"])
def test_neighbours_and_padding_change_nothing(language: str, side: str) -> None:
    model, batch = otter(with_language(language)), inputs(MIXED)
    padded = batch.to_left() if side == "left" else batch
    together = logits(model, padded)
    for index in range(len(MIXED)):
        real = padded.attention_mask[index].bool()
        torch.testing.assert_close(together[index][real], logits(model, batch.row(index))[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_reach_what_is_trained_and_nothing_else(language: str, tied: bool) -> None:
    model = otter(with_language(language, tie_word_embeddings=tied)).train()
    lm = model.language.lm
    assert (lm.get_input_embeddings().weight is lm.get_output_embeddings().weight) == tied
    freeze(model, embeddings="full")
    batch = inputs(MIXED)
    arguments = (batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels)
    first = model(*arguments, vision_mask=batch.vision_mask)
    assert torch.equal(first.loss, model(*arguments, vision_mask=batch.vision_mask).loss)  # no dropout while training
    first.loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_activation_checkpointing_changes_no_gradient(language: str) -> None:
    model, batch = otter(with_language(language)).train(), inputs(MIXED)
    freeze(model)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        arguments = (batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels)
        model(*arguments, vision_mask=batch.vision_mask).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    for layer in decoder_layers(model.language.lm):
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = lambda *args: checkpoint(*args, use_reentrant=False)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("tied", [True, False])
def test_folders_load_and_their_vocabulary_grows_the_same_way_each_time(
    language: str, tied: bool, tmp_path: Path
) -> None:
    small = replace(IDS, image=31, endofchunk=30, answer=29)
    stored = build_model(with_language(language, tie_word_embeddings=tied), vocab_size=32, token_ids=small).language.lm
    stored.save_pretrained(tmp_path)
    config = replace(with_pretrained(CONFIG, language=str(tmp_path)), cross_attention_every=2)
    first, second = (build_model(config, vocab_size=VOCABULARY, token_ids=IDS).language.lm for _ in range(2))
    for name, tensor in stored.state_dict().items():
        assert torch.equal(first.state_dict()[name][: len(tensor)], tensor), name
    for matrix in (first.get_input_embeddings().weight, first.get_output_embeddings().weight):
        assert matrix.shape == (VOCABULARY, 32) and matrix.isfinite().all()
        assert 0.3 < (matrix[32:].std() / matrix[:32].std()).item() < 3
        assert len(matrix[32:].unique(dim=0)) == VOCABULARY - 32
    for name, tensor in second.state_dict().items():
        assert torch.equal(first.state_dict()[name], tensor), name


def test_an_unknown_kind_of_decoder_raises() -> None:
    with pytest.raises(TrainError, match="no list of decoder layers"):
        otter(replace(CONFIG, language=replace(CONFIG.language, architecture={
            "model_type": "xlnet", "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 32,
        })))  # fmt: skip


def test_pictures_become_patch_tokens_one_by_one(vision: str) -> None:
    model = otter(with_vision(vision))
    pictures = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for mode in (model.eval(), model.train()):
        tokens = mode.vision(pictures)
        assert tokens.shape[::2] == (3, model.vision.dim)
        torch.testing.assert_close(tokens[1:2], mode.vision(pictures[1:2]), atol=1e-5, rtol=1e-5)


def test_every_tower_trains_and_freezes(vision: str) -> None:
    model = otter(with_vision(vision)).train()
    batch = inputs(MIXED)
    for train_vision in (True, False):
        freeze(model, train_vision=train_vision)
        before = {name: buffer.clone() for name, buffer in model.vision.named_buffers()}
        model.zero_grad()
        arguments = (batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels)
        model(*arguments, vision_mask=batch.vision_mask).loss.backward()
        assert any(p.requires_grad for p in model.vision.parameters()) == train_vision
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        for name, buffer in model.vision.named_buffers():
            assert torch.equal(buffer, before[name]), name  # running statistics stay as they were


@pytest.mark.parametrize("kind", ["siglip", "dinov2", "dinov2 with registers"])
def test_tokens_leave_the_last_block_before_the_final_norm(kind: str) -> None:
    tower = otter(with_vision(kind)).vision
    norm = tower.model.post_layernorm if kind == "siglip" else tower.model.layernorm
    torch.nn.init.normal_(norm.weight, mean=2.0)
    torch.nn.init.normal_(norm.bias)
    encoder = tower.model.encoder
    caught: list[Tensor] = []
    (encoder.layers if kind == "siglip" else encoder.layer)[-1].register_forward_hook(
        lambda module, args, out: caught.append(out)
    )
    pictures = torch.randn(2, 3, 16, 16)
    tokens = tower(pictures)
    assert tokens.shape == (2, 4, 24)  # 2x2 patches: neither the class token nor registers
    assert torch.equal(tokens, caught[0][:, -4:])
    assert (tokens - tower.model(pictures).last_hidden_state[:, -4:]).abs().max() > 0.1


# A conv stem starts from random weights, and files of open_clip are no folders.
@pytest.mark.parametrize("vision", [name for name in VISIONS if name not in ("conv stem", "open_clip")])
def test_a_tower_from_a_folder_is_the_model_that_was_saved(vision: str, tmp_path: Path) -> None:
    expected = otter(with_vision(vision)).vision
    expected.model.save_pretrained(tmp_path)
    config = with_pretrained(preset("otter-9b"), vision=str(tmp_path)).vision
    if vision in ("convnext", "mobilenet", "resnet", "timm"):  # these take any size, so the folder names none
        assert (config.image_size, config.width) == (224, expected.dim)
        config = replace(config, image_size=16)
    assert (config.width, config.image_size) == (expected.dim, 16)
    model = build_model(replace(CONFIG, vision=config), vocab_size=VOCABULARY, token_ids=IDS).eval()
    pictures = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.vision(pictures), expected.eval()(pictures), atol=1e-6, rtol=0)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.vision.state_dict()[name], tensor), name
    assert (model.vision.mean, model.vision.std) == NORMALISATION[expected.model.config.model_type]


_HALF = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
_PATCHES = {**_HALF, "patch_size": 8}


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("aimv2", {"vision_config": {**_PATCHES, "image_size": 16}, "text_config": _HALF}),
        ("clip", {"vision_config": {**_PATCHES, "image_size": 16}, "text_config": _HALF}),
        ("siglip", {"vision_config": {**_PATCHES, "image_size": 16}, "text_config": _HALF}),
        ("siglip2", {"vision_config": {**_PATCHES, "num_patches": 4}, "text_config": _HALF}),
        ("vit", {**_PATCHES, "image_size": 16}),
        ("dinov2", {**_PATCHES, "image_size": 16}),
    ],
)
def test_a_tower_is_taken_out_of_the_folder_of_a_whole_model(kind: str, parts: dict[str, Any], tmp_path: Path) -> None:
    """As most are published: with a text half, or as a classifier."""
    torch.manual_seed(0)
    whole_class = AutoModel if "text_config" in parts else AutoModelForImageClassification
    whole = whole_class.from_config(AutoConfig.for_model(kind, **parts)).eval()
    whole.save_pretrained(tmp_path)
    tower = build_model(
        with_pretrained(CONFIG, vision=str(tmp_path)), vocab_size=VOCABULARY, token_ids=IDS
    ).vision  # fmt: skip
    inside = getattr(whole, "vision_model", None) or whole.base_model
    assert tower(torch.randn(2, 3, 16, 16)).shape == (2, 4, 24)
    stored = inside.state_dict()
    held = {name.removeprefix("model."): value for name, value in tower.state_dict().items()}
    assert held and all(torch.equal(value, stored[name]) for name, value in held.items())


def test_vision_models_without_a_grid_of_tokens_raise() -> None:
    bert = AutoModel.from_config(
        AutoConfig.for_model("bert", hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(TrainError, match="a bert model is no vision tower of Otter; there are: aimv2_vision_model"):
        transformers_tower(bert, image_size=16)


def test_vit_l_14_of_openai_uses_quick_gelu() -> None:
    pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    config = with_pretrained(preset("otter-9b"), vision="ViT-L-14:openai").vision
    assert config.quick_gelu and config.layout == "open_clip"
    assert (config.width, config.layers, config.heads, config.patch_size, config.projection) == (1024, 24, 16, 14, 768)
    assert not with_pretrained(preset("otter-9b"), vision="ViT-L-14:laion2b_s32b_b82k").vision.quick_gelu
    tower = build_model(
        replace(CONFIG, vision=replace(config, layers=1)), vocab_size=VOCABULARY, token_ids=IDS, device="meta"
    ).vision
    assert type(tower.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    with pytest.raises(TrainError, match="open_clip has no architecture ViT-XYZ"):
        with_pretrained(CONFIG, vision="ViT-XYZ:openai")
    with pytest.raises(TrainError, match="RN50 is no vision transformer"):
        with_pretrained(CONFIG, vision="RN50:openai")


def test_a_network_of_timm_is_given_pictures_as_it_was_trained() -> None:
    own = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    config = AutoConfig.for_model("timm_wrapper", architecture="test_efficientnet", pretrained_cfg=own)
    tower = transformers_tower(AutoModel.from_config(config), image_size=16)
    assert (tower.mean, tower.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", ["test_vit", "vit_pe_core_tiny_patch16_384"])
def test_transformers_of_timm_give_what_goes_into_their_last_norm(name: str) -> None:
    model = AutoModel.from_config(AutoConfig.for_model("timm_wrapper", architecture=name)).eval()
    tower = transformers_tower(model, image_size=1)
    pictures = torch.randn(2, 3, tower.image_size, tower.image_size)
    tokens = tower(pictures)
    assert tokens.shape == (2, (tower.image_size // 16) ** 2, tower.dim)
    network = model.timm_model
    with torch.no_grad():
        expected = network.forward_features(pictures)[:, network.num_prefix_tokens :]
    torch.testing.assert_close(network.norm(tokens), expected)


@pytest.mark.parametrize("name", ["aimv2", "dinov3", "siglip2 naflex", "vit"])
def test_transformers_give_what_goes_into_their_last_norm(name: str) -> None:
    tower = otter(with_vision(name)).vision
    pictures = torch.randn(2, 3, 16, 16)
    tokens = tower(pictures)
    ended: list[Tensor] = []
    handle = tower._norm[0].register_forward_hook(lambda module, args, out: ended.append(out))
    again = tower(pictures)
    handle.remove()
    assert torch.equal(again, tokens) and tokens.shape == (2, 4, 24)
    torch.testing.assert_close(tower._norm[0](tokens), ended[0][:, -4:])
