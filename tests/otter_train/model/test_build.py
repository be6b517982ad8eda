from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionModel

from mimicit.errors import TrainError, UsageError
from otter_train.model import PRESETS, ModelConfig, build_model, preset, with_pretrained
from otter_train.model.build import clip_config
from otter_train.model.config import VisionConfig
from otter_train.model.vision import OpenClipTower
from tests.factories.otter import CONFIG, IDS, VOCABULARY, inputs, otter


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A language model of 32 tokens and a vision tower, as transformers saves them."""
    top = tmp_path_factory.mktemp("pretrained")
    ids = replace(IDS, image=31, endofchunk=30, answer=29)
    model = build_model(CONFIG, vocab_size=32, token_ids=ids)
    model.language.lm.save_pretrained(top / "language")
    CLIPVisionModel(clip_config(CONFIG.vision)).save_pretrained(top / "vision")
    return str(top / "language"), str(top / "vision")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = preset(name)
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (None, "cross_attention_heads", 8.0), (None, "cross_attention_gate", "0"), ("vision", "width", -1),
        ("vision", "quick_gelu", 1), ("vision", "pretrained", 7), ("perceiver", "depth", True),
        ("perceiver", "max_num_frames", 2.0),
    ],
)  # fmt: skip
def test_a_configuration_of_other_types_is_refused_by_name(part: str | None, field: str, value: object) -> None:
    stored = preset("tiny").to_json()
    (stored if part is None else stored[part])[field] = value
    with pytest.raises(UsageError, match=f"the model's {field} is"):
        ModelConfig.from_json(stored)


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="otter-9b, tiny"):
        preset("otter-1b")


def test_the_tiny_preset_runs_on_its_own_picture_size() -> None:
    model = build_model(preset("tiny"), vocab_size=VOCABULARY, token_ids=IDS)
    output = model(torch.zeros(1, 1, 1, 3, 64, 64), inputs([[1]]).lang_x)
    assert output.logits.shape == (1, 7, VOCABULARY)
    assert sum(p.numel() for p in model.parameters()) < 3_000_000


def test_gates_are_closed_on_a_trained_language_model_and_open_on_a_random_one() -> None:
    model = build_model(preset("tiny"), vocab_size=VOCABULARY, token_ids=IDS)
    assert {p.item() for name, p in model.named_parameters() if name.endswith("_gate")} == {1.0}
    assert preset("otter-9b").cross_attention_gate == 0.0


def test_positions_of_a_random_tower_are_as_loud_as_patches() -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, vision=replace(CONFIG.vision, image_size=64, width=96, heads=4))
    embeddings = build_model(config, vocab_size=VOCABULARY, token_ids=IDS).vision.model.embeddings
    patches = embeddings.patch_embedding(torch.randn(8, 3, 64, 64)).std()
    assert 0.5 < embeddings.position_embedding.weight.std() / patches < 2


@pytest.mark.parametrize("change", [{"layout": "open_clip"}, {"pretrained": "a folder"}])
def test_a_convolutional_stem_fits_random_transformers_towers_only(change: dict[str, str]) -> None:
    config = replace(CONFIG, vision=replace(CONFIG.vision, stem="conv", **change))
    with pytest.raises(UsageError, match="stem"):
        build_model(config, vocab_size=VOCABULARY, token_ids=IDS)


def test_a_seed_gives_one_model_and_another_seed_another() -> None:
    first, again, other = (weights(otter(seed=seed, gate=None)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["perceiver.latents"], other["perceiver.latents"])


def test_backbones_take_the_dtype_and_the_rotary_frequencies_do_not() -> None:
    model = build_model(CONFIG, vocab_size=VOCABULARY, token_ids=IDS, dtype=torch.bfloat16)
    dtypes = {name.split(".")[0]: p.dtype for name, p in model.named_parameters() if "cross_attention" not in name}
    assert dtypes == {"vision": torch.bfloat16, "language": torch.bfloat16, "perceiver": torch.float32}
    assert {p.dtype for p in model.language.cross_attention.parameters()} == {torch.float32}
    assert model.language.lm.model.rotary_emb.inv_freq.dtype == torch.float32
    batch = inputs([[1], []])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels, vision_mask=batch.vision_mask)
    assert output.loss.isfinite()


def test_folders_bring_architecture_and_weights_and_the_vocabulary_grows(folders: tuple[str, str]) -> None:
    language, vision = folders
    config = with_pretrained(preset("otter-9b"), language=language, vision=vision)
    assert config.vision == replace(CONFIG.vision, pretrained=vision)
    assert config == ModelConfig.from_json(json.loads(json.dumps(config.to_json())))
    config = replace(config, cross_attention_every=2)
    model = build_model(config, vocab_size=VOCABULARY, token_ids=IDS)
    stored = load_file(Path(language) / "model.safetensors")
    lm = model.language.lm.state_dict()
    for name, tensor in stored.items():
        assert torch.equal(lm[name][: len(tensor)], tensor), name
    assert lm["model.embed_tokens.weight"].shape == lm["lm_head.weight"].shape == (VOCABULARY, 32)
    stored = load_file(Path(vision) / "model.safetensors")
    ours = model.vision.model.state_dict()
    for name, tensor in stored.items():
        assert torch.equal(ours[name.removeprefix("vision_model.")], tensor), name


def test_without_weights_the_same_architecture_comes_back(folders: tuple[str, str]) -> None:
    config = replace(with_pretrained(CONFIG, language=folders[0], vision=folders[1]), cross_attention_every=2)
    loaded = build_model(config, vocab_size=VOCABULARY, token_ids=IDS)
    gone = replace(
        config,
        language=replace(config.language, pretrained="/gone"),
        vision=replace(config.vision, pretrained="/gone"),
    )
    empty = build_model(gone, vocab_size=VOCABULARY, token_ids=IDS, load_weights=False)
    empty.load_state_dict(loaded.state_dict())
    batch = inputs([[1]])
    assert torch.equal(empty(batch.vision_x, batch.lang_x).logits, loaded(batch.vision_x, batch.lang_x).logits)


def test_a_vocabulary_never_shrinks(folders: tuple[str, str]) -> None:
    config = replace(with_pretrained(CONFIG, language=folders[0]), cross_attention_every=2)
    ids = replace(IDS, image=9, endofchunk=8, answer=7)
    for load in (True, False):
        model = build_model(config, vocab_size=10, token_ids=ids, load_weights=load)
        assert model.language.lm.get_input_embeddings().num_embeddings == 32


def test_folders_that_hold_something_else_raise(folders: tuple[str, str], tmp_path: Path) -> None:
    language, vision = folders
    with pytest.raises(TrainError, match=r"no config\.json is there"):
        with_pretrained(CONFIG, language=str(tmp_path))
    with pytest.raises(
        TrainError, match="a llama model is no vision tower; there are aimv2_vision_model, clip_vision_model"
    ):
        with_pretrained(CONFIG, vision=language)
    with pytest.raises(TrainError, match="a clip_vision_model model is no language model of transformers on its own"):
        with_pretrained(CONFIG, language=vision)


def test_a_folder_with_missing_weights_raises_rather_than_invent_them(folders: tuple[str, str], tmp_path: Path) -> None:
    stored = load_file(Path(folders[0]) / "model.safetensors")
    del stored["model.layers.1.mlp.up_proj.weight"]
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((Path(folders[0]) / "config.json").read_bytes())
    config = with_pretrained(CONFIG, language=str(tmp_path))
    with pytest.raises(TrainError, match=r"weights are missing: model\.layers\.1\.mlp\.up_proj\.weight"):
        build_model(config, vocab_size=VOCABULARY, token_ids=IDS)


def test_open_clip_weights_are_read_from_a_local_file(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    torch.manual_seed(5)
    clip = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    vision = VisionConfig(
        layout="open_clip", pretrained=f"ViT-S-32-alt:{tmp_path}/clip.pt", image_size=224, patch_size=32, width=384
    )
    model = build_model(replace(CONFIG, vision=vision), vocab_size=VOCABULARY, token_ids=IDS)
    assert isinstance(model.vision, OpenClipTower)
    assert torch.equal(model.vision.visual.conv1.weight, clip.visual.conv1.weight)
    assert type(model.vision.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    with pytest.raises(TrainError, match="width 384 for 224 pixels, but the configuration says 512 and 224"):
        build_model(replace(CONFIG, vision=replace(vision, width=512)), vocab_size=VOCABULARY, token_ids=IDS)
    with pytest.raises(UsageError, match="ARCHITECTURE:TAG_OR_FILE"):
        build_model(
            replace(CONFIG, vision=replace(vision, pretrained="ViT-L-14")), vocab_size=VOCABULARY, token_ids=IDS
        )


def test_special_tokens_outside_of_the_vocabulary_raise() -> None:
    with pytest.raises(TrainError, match="token id 39 lies outside of a vocabulary of 39"):
        build_model(CONFIG, vocab_size=39, token_ids=IDS)
