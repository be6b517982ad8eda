from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.model import ModelConfig, Otter, from_layout, to_layout
from otter_train.model.config import LanguageConfig
from otter_train.model.convert import same_bits
from otter_train.model.layouts import Layout, arranged, detect_layout, neutral, place_in
from otter_train.model.lazy import LazyTensor
from tests.factories.otter import CONFIG, LANGUAGES, VISIONS, inputs, otter, with_language, with_vision

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
    return to_layout(otter(seed=1), "openflamingo")


def assert_same(model: Otter, other: Otter) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_there_and_back_is_the_same_model(source: Otter) -> None:
    target = otter(replace(CONFIG, vision=replace(CONFIG.vision, layout=source.vision.layout)), seed=2)
    assert from_layout(target, to_layout(source, "openflamingo")) == []
    assert_same(target, source)


def test_the_vision_tower_crosses_from_one_layout_to_the_other(source: Otter) -> None:
    there = "open_clip" if source.vision.layout == "transformers" else "transformers"
    pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    target = otter(replace(CONFIG, vision=replace(CONFIG.vision, layout=there)), seed=2)
    lacking = from_layout(target, to_layout(source, "openflamingo"), may_lack=["vision.visual.proj"])
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
    assert from_layout(target, written(file)) == []
    for (name, got), want in zip(target.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3, msg=name)


def test_every_misfit_is_named_and_nothing_is_loaded(file: dict[str, Tensor]) -> None:
    del file[LAYER], file["perceiver.latents"]
    file["perceiver.media_time_embs"] = torch.zeros(1)
    file[BLOCK] = file[BLOCK][:, 1:]
    target = otter(seed=2)
    with pytest.raises(TrainError) as error:
        from_layout(target, file)
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
        from_layout(target, trained, may_lack=["vision."])
    lacking = from_layout(target, trained, may_lack=["vision.", "language.lm."])
    before, now, source = otter(seed=2).state_dict(), target.state_dict(), otter(seed=1).state_dict()
    assert {name.split(".")[0] for name in lacking} == {"vision", "language"}
    for name in now:
        assert torch.equal(now[name], (before if name in lacking else source)[name]), name


def test_copies_that_differ_raise(file: dict[str, Tensor]) -> None:
    written = doubled(file)
    written["lang_encoder.old_decoder_blocks.1.mlp.up_proj.weight"] = torch.zeros(48, 32)
    with pytest.raises(
        TrainError,
        match=r"copies of these weights, and they differ: language\.lm\.model\.layers\.1\.mlp\.up_proj\.weight",
    ):
        from_layout(otter(), written)


def test_tied_embeddings_may_be_stored_once() -> None:
    architecture = {**CONFIG.language.architecture, "tie_word_embeddings": True}
    config = replace(CONFIG, language=LanguageConfig(architecture=architecture))
    file = to_layout(otter(config, seed=1), "openflamingo")
    del file["lang_encoder.lm_head.weight"]
    target = otter(config, seed=2)
    assert from_layout(target, file) == []
    assert_same(target, otter(config, seed=1))


def test_files_of_another_kind_raise() -> None:
    with pytest.raises(TrainError, match="a str and no tensor"):
        from_layout(otter(), {"optimizer": "adam"})


@pytest.mark.parametrize("layout", ["openflamingo", "otter"])
@pytest.mark.parametrize(
    "config", [*map(with_language, LANGUAGES), *map(with_vision, VISIONS)], ids=[*LANGUAGES, *VISIONS]
)
def test_every_backbone_goes_there_and_back_bit_for_bit(config: ModelConfig, layout: Layout) -> None:
    if config.vision.layout == "open_clip":
        pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    source, target = otter(config, seed=1), otter(config, seed=2)
    written = to_layout(source, layout)
    assert not any(key.startswith(("vision.", "language.")) for key in written)
    assert detect_layout(written) == layout
    assert from_layout(target, written) == []
    for name, tensor in source.state_dict().items():
        if name != "vision.visual.proj" or layout == "openflamingo":  # CLIP's projection has no place in Otter
            assert torch.equal(tensor, target.state_dict()[name]), name
    again = to_layout(target, layout)
    assert list(again) == list(written) and all(torch.equal(again[key], written[key]) for key in written)


@pytest.mark.parametrize("name", ["llama", "mpt", "opt", "gpt_neox"])
def test_layers_are_found_where_the_language_model_keeps_them(name: str) -> None:
    model = otter(with_language(name))
    path = {"llama": "model.layers", "mpt": "transformer.blocks", "opt": "model.decoder.layers"}.get(
        name, "gpt_neox.layers"
    )
    for layout in ("openflamingo", "otter"):
        keys = set(to_layout(model, layout))
        assert any(key.startswith(f"lang_encoder.{path}.1.decoder_layer.") for key in keys)
        assert f"lang_encoder.{path}.1.gated_cross_attn_layer.attn.to_kv.weight" in keys


def test_keys_of_otter_are_those_of_its_release() -> None:
    keys = set(to_layout(otter(), "otter"))
    assert {
        "perceiver.layers.0.norm_media.weight",
        "perceiver.layers.1.feed_forward.3.weight",
        "lang_encoder.model.layers.1.gated_cross_attn_layer.feed_forward.1.weight",
        "lang_encoder.model.layers.1.gated_cross_attn_layer.attn_gate",
        "lang_encoder.model.layers.0.decoder_layer.self_attn.q_proj.weight",
        "vision_encoder.vision_model.encoder.layers.0.self_attn.k_proj.bias",
        "vision_encoder.vision_model.pre_layrnorm.weight",
    } <= keys


def test_a_tower_written_by_transformers_5_is_read_too() -> None:
    file = {key.replace("vision_encoder.vision_model.", "vision_encoder."): tensor
            for key, tensor in to_layout(otter(seed=1), "otter").items()}  # fmt: skip
    target = otter(seed=2)
    assert from_layout(target, file, "otter") == []
    assert_same(target, otter(seed=1))


def test_the_class_of_transformers_may_stand_around_our_own_names() -> None:
    target = otter(seed=2)
    assert from_layout(target, {f"model.{key}": value for key, value in otter(seed=1).state_dict().items()}) == []
    assert_same(target, otter(seed=1))


def test_a_fused_projection_of_which_a_part_is_missing_raises() -> None:
    state = {name: LazyTensor.of(tensor) for name, tensor in otter().state_dict().items() if "k_proj.bias" not in name}
    with pytest.raises(TrainError, match=r"resblocks\.0\.attn\.in_proj_bias: 1 of its query, key and value parts"):
        arranged(state, "openflamingo")


def test_names_without_a_place_are_listed() -> None:
    with pytest.raises(TrainError, match=r"optimizer\.state is unexpected; perceiver is unexpected"):
        neutral({key: LazyTensor.of(torch.zeros(1)) for key in ("optimizer.state", "perceiver")}, "openflamingo")
    assert place_in("optimizer.state", "otter") is None


def test_a_file_of_something_else_is_recognised_as_such(file: dict[str, Tensor]) -> None:
    with pytest.raises(TrainError, match=r"no weights of an Otter .*bert\.embeddings"):
        from_layout(otter(), {"bert.embeddings.weight": torch.zeros(1)})
    assert detect_layout(file) == "openflamingo"


def test_copies_are_compared_by_their_bits() -> None:
    nan = LazyTensor.of(torch.tensor([float("nan"), -0.0]))
    assert same_bits(nan, nan)
    assert not same_bits(nan, LazyTensor.of(torch.tensor([float("nan"), 0.0])))
    assert not same_bits(nan, LazyTensor.of(torch.tensor([float("nan"), -0.0]).half()))
