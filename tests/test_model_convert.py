from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.model import Otter, load_openflamingo, to_openflamingo
from otter_train.model.config import LanguageConfig
from otter_train.model.convert import openflamingo_place
from tests.factories.otter import CONFIG, inputs, otter

EMBEDDING = "lang_encoder.model.embed_tokens.weight"
LAYER = "lang_encoder.model.layers.1.decoder_layer.mlp.up_proj.weight"
BLOCK = "lang_encoder.model.layers.1.gated_cross_attn_layer.ff.3.weight"


@pytest.fixture(params=["transformers", "open_clip"])
def source(request: pytest.FixtureRequest) -> Otter:
    if request.param == "open_clip":
        pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    return otter(replace(CONFIG, vision=replace(CONFIG.vision, layout=request.param)), seed=1)


@pytest.fixture
def file() -> dict[str, Tensor]:
    return to_openflamingo(otter(seed=1))


def assert_same(model: Otter, other: Otter) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_there_and_back_is_the_same_model(source: Otter) -> None:
    target = otter(replace(CONFIG, vision=replace(CONFIG.vision, layout=source.vision.layout)), seed=2)
    assert load_openflamingo(target, to_openflamingo(source)) == []
    assert_same(target, source)


def test_the_vision_tower_crosses_from_one_layout_to_the_other(source: Otter) -> None:
    there = "open_clip" if source.vision.layout == "transformers" else "transformers"
    pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    target = otter(replace(CONFIG, vision=replace(CONFIG.vision, layout=there)), seed=2)
    lacking = load_openflamingo(target, to_openflamingo(source), may_lack=["vision.visual.proj"])
    assert lacking == (["vision.visual.proj"] if there == "open_clip" else [])
    batch = inputs([[1, 1], [2]])
    expected = source(batch.vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask).logits
    got = target(batch.vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_keys_are_those_of_openflamingo(file: dict[str, Tensor]) -> None:
    assert {EMBEDDING, LAYER, BLOCK, "perceiver.layers.0.0.to_kv.weight", "perceiver.layers.0.1.3.weight"} <= set(file)
    assert not any(
        "post_layernorm" in key or "cross_attention" in key or ("q_proj" in key and "vision" in key) for key in file
    )
    assert file["vision_encoder.transformer.resblocks.0.attn.in_proj_weight"].shape == (3 * 24, 24)


def wrap(file: dict[str, Tensor], name: str) -> dict[str, Any]:
    return {name: file, "epoch": 3}


def rename(file: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {key.replace(old, new): tensor for key, tensor in file.items()}


def doubled(file: dict[str, Tensor]) -> dict[str, Tensor]:
    layers = {
        key.replace("model.layers.", "old_decoder_blocks.").replace("decoder_layer.", ""): tensor
        for key, tensor in file.items()
        if ".decoder_layer." in key
    }
    blocks = {
        key.replace("model.layers.", "gated_cross_attn_layers.").replace("gated_cross_attn_layer.", ""): tensor
        for key, tensor in file.items()
        if ".gated_cross_attn_layer." in key
    }
    assert layers and blocks
    return file | layers | blocks


@pytest.mark.parametrize(
    "written",
    [
        lambda file: wrap(file, "model_state_dict"),
        lambda file: wrap(file, "model"),
        lambda file: {f"module.{key}": tensor for key, tensor in file.items()},
        lambda file: wrap({f"module.{key}": tensor for key, tensor in file.items()}, "model_state_dict"),
        lambda file: rename(file, "decoder_layer.", "decoder_layer._checkpoint_wrapped_module."),
        lambda file: file | {"lang_encoder.model.layers.0.decoder_layer.self_attn.rotary_emb.inv_freq": torch.ones(4)},
        lambda file: file | {"vision_encoder.position_ids": torch.arange(5)},
        lambda file: file | {"vision_encoder.proj": torch.zeros(24, 8)},
        doubled,
        lambda file: {key: tensor for key, tensor in doubled(file).items() if ".model.layers." not in key},
        lambda file: {key: tensor.half().float() for key, tensor in file.items()},
    ],
    ids=[
        "wrapper",
        "wrapper 2",
        "module",
        "both",
        "checkpointed",
        "rotary",
        "positions",
        "proj",
        "twice",
        "moved",
        "half",
    ],
)
def test_what_published_files_add_is_taken_off(file: dict[str, Tensor], written: Any) -> None:
    expected = otter(seed=1)
    target = otter(seed=2)
    assert load_openflamingo(target, written(file)) == []
    for (name, got), want in zip(target.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3, msg=name)


def test_every_misfit_is_named_and_nothing_is_loaded(file: dict[str, Tensor]) -> None:
    del file[LAYER], file["perceiver.latents"]
    file["perceiver.media_time_embs"] = torch.zeros(1)
    file[BLOCK] = file[BLOCK][:, 1:]
    target = otter(seed=2)
    with pytest.raises(TrainError) as error:
        load_openflamingo(target, file)
    for words in (
        f"{LAYER} is missing",
        "perceiver.latents is missing",
        "perceiver.media_time_embs is unexpected",
        f"{BLOCK} gives (32, 127) for (32, 128)",
    ):
        assert words in str(error.value)
    assert str(error.value).count(";") == 3
    assert_same(target, otter(seed=2))


def test_frozen_parts_may_be_lacking_only_where_that_is_said(file: dict[str, Tensor]) -> None:
    trained = {key: tensor for key, tensor in file.items() if "perceiver" in key or "gated_cross" in key}
    target = otter(seed=2)
    with pytest.raises(TrainError, match=r"lm_head\.weight is missing"):
        load_openflamingo(target, trained, may_lack=["vision."])
    lacking = load_openflamingo(target, trained, may_lack=["vision.", "language.lm."])
    before, now, source = otter(seed=2).state_dict(), target.state_dict(), otter(seed=1).state_dict()
    assert {name.split(".")[0] for name in lacking} == {"vision", "language"}
    for name in now:
        assert torch.equal(now[name], (before if name in lacking else source)[name]), name


def test_copies_that_differ_raise(file: dict[str, Tensor]) -> None:
    written = doubled(file)
    written["lang_encoder.old_decoder_blocks.1.mlp.up_proj.weight"] = torch.zeros(48, 32)
    with pytest.raises(TrainError, match=f"{LAYER}: the file holds two copies"):
        load_openflamingo(otter(), written)


def test_tied_embeddings_may_be_stored_once() -> None:
    architecture = {**CONFIG.language.architecture, "tie_word_embeddings": True}
    config = replace(CONFIG, language=LanguageConfig(architecture=architecture))
    file = to_openflamingo(otter(config, seed=1))
    del file["lang_encoder.lm_head.weight"]
    target = otter(config, seed=2)
    assert load_openflamingo(target, file) == []
    assert_same(target, otter(config, seed=1))


def test_files_of_another_kind_raise() -> None:
    with pytest.raises(TrainError, match="a str and no tensor"):
        load_openflamingo(otter(), {"optimizer": "adam"})


def test_a_tower_that_openflamingo_does_not_know_raises() -> None:
    model = otter(replace(CONFIG, vision=replace(CONFIG.vision, stem="conv")))
    with pytest.raises(
        TrainError, match=r"vision\.model\.embeddings\.patch_embedding\.layers\.0\.weight: no such weight"
    ):
        to_openflamingo(model)


def test_a_key_without_a_place_raises() -> None:
    with pytest.raises(TrainError, match=r"optimizer\.state: no such weight"):
        openflamingo_place("optimizer.state")
