"""Options change what joins the two models; only what is pretrained and frozen is left out of a checkpoint."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from safetensors.torch import load_file

from mimicit.errors import UsageError
from otter_train.assembly.models import kept_weights
from otter_train.checkpoint.files import load_weights, open_checkpoint
from otter_train.config.run_config import RunOptions, resolve
from otter_train.evaluation.attempts import answer_losses, choose_each
from otter_train.inference.answering import load_trained_model
from otter_train.reporting.metrics import Console
from otter_train.training.loop import train
from tests.factories.pretrained import pretrained_folders
from tests.factories.train import Colours


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return pretrained_folders(tmp_path_factory.mktemp("pretrained"))


def run(folder: Path, **given: Any) -> None:
    train(
        resolve(given.pop("preset", None), **{"batch_size": 4, "max_steps": 2, "lr": 1e-3, **given}),
        Colours(),
        folder,
        options=RunOptions(workers=0, device="cpu"),
        console=Console(io.StringIO()),
    )


def test_options_shape_what_joins_the_models(tmp_path: Path, folders: dict[str, str]) -> None:
    shape = {"latents": 3, "latent_std": 1e-3, "perceiver_depth": 2, "perceiver_width": 8, "cross_attention_every": 2}
    run(tmp_path, **folders, **shape, cross_attention_gate=0.5, lr=1e-9)
    model = load_trained_model(tmp_path, device="cpu").model
    assert model.perceiver.latents.shape == (3, 8) and 0 < model.perceiver.latents.abs().max() < 1e-2
    assert (len(model.perceiver.layers), list(model.language.blocks_by_layer)) == (2, [1, 3])
    assert all(block.attn_gate.item() == pytest.approx(0.5) for block in model.language.blocks)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latents", 0),
        ("perceiver_depth", 0),
        ("perceiver_width", 0),
        ("cross_attention_every", -1),
        ("cross_attention_gate", 4.0),
        ("latent_std", 0.0),
        ("latent_std", float("nan")),
    ],
)
def test_impossible_shapes_are_named(name: str, value: float, folders: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} {value}"):
        resolve(None, **folders, **{name: value})


def test_a_thawed_language_model_is_trained_and_kept(tmp_path: Path, folders: dict[str, str]) -> None:
    run(tmp_path, **folders, train_language=True)
    kept = load_weights(open_checkpoint(tmp_path))
    stored = load_file(Path(folders["language_model"]) / "model.safetensors")
    layer = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(kept[f"language.lm.{layer}"], stored[layer])
    assert not any(name.startswith("vision.") for name in kept)


def test_a_small_language_model_learns_to_look_through_a_pretrained_tower(
    tmp_path: Path, folders: dict[str, str]
) -> None:
    run(tmp_path, preset="tiny", vision_model=folders["vision_model"])
    trained = load_trained_model(tmp_path, device="cpu")
    kept = load_weights(open_checkpoint(tmp_path))
    assert not any(name.startswith("vision.") for name in kept)
    assert all(name in kept for name, _ in trained.model.named_parameters() if not name.startswith("vision."))
    stored = load_file(Path(folders["vision_model"]) / "model.safetensors")
    tower = trained.model.vision.state_dict()
    name = next(name for name in tower if name.endswith("patch_embedding.weight"))
    assert any(torch.equal(tower[name], value) for value in stored.values() if value.shape == tower[name].shape)
    assert not any(parameter.requires_grad for parameter in trained.model.vision.parameters())
    assert kept_weights(trained.model, resolve("tiny", vision_model=folders["vision_model"])).keys() == kept.keys()


def test_the_choice_is_the_answer_of_the_smallest_loss(tmp_path: Path) -> None:
    run(tmp_path, preset="tiny")
    trained = load_trained_model(tmp_path, device="cpu")
    offered = ["red", "green", "blue", "white"]
    asked = [replace(Colours().get(place), meta={"choices": offered} if place else {}) for place in range(4)]
    chosen = choose_each(trained, asked)
    assert chosen[0] == (None, None)
    for sample, choice in zip(asked[1:], chosen[1:], strict=True):
        texts = [replace(sample, triplets=(*sample.context, replace(sample.query, answer=text))) for text in offered]
        losses = [nats for nats, _ in answer_losses(trained, texts)]
        assert choice == (offered[losses.index(min(losses))], None)
    sample = replace(Colours().get(0), meta={"choices": ["Yes", "no"]})
    sample = replace(sample, triplets=(*sample.context, replace(sample.query, answer="no")))
    texts = [replace(sample, triplets=(*sample.context, replace(sample.query, answer=text))) for text in ("Yes", "no")]
    yes, no = (math.exp(-nats) for nats, _ in answer_losses(trained, texts))
    assert choose_each(trained, [sample])[0].yes == pytest.approx(yes / (yes + no))
