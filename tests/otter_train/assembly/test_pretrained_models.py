"""Training between a frozen language model and a frozen vision tower, both from local folders."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionModel,
)
from transformers.utils import logging

from mimicit.errors import UsageError
from mimicit.prompt import render
from otter_train.assembly import models as assembly
from otter_train.checkpoint.files import load_weights, open_checkpoint
from otter_train.config.run_config import RunOptions, resolve
from otter_train.conversion import convert
from otter_train.conversion.weight_files import read_weights
from otter_train.data.batches import collate, normalise
from otter_train.inference import AnswerOptions
from otter_train.inference.answering import answer_each, load_trained_model
from otter_train.model import Otter
from otter_train.model.convert import same_bits
from otter_train.model.sources import read_pretrained
from otter_train.reporting.metrics import Console
from otter_train.training.loop import Outcome, train
from tests.factories.otter import LANGUAGES
from tests.factories.pretrained import pretrained_folders
from tests.factories.train import Colours


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return pretrained_folders(tmp_path_factory.mktemp("pretrained"))


def run(folder: Path, **given: Any) -> Outcome:
    return train(
        resolve(None, **{"batch_size": 4, "max_steps": 3, "lr": 1e-3, "perceiver_depth": 1, **given}),
        Colours(),
        folder,
        options=RunOptions(workers=0, log_every=1, device="cpu"),
        console=Console(io.StringIO()),
    )


@pytest.mark.parametrize("embeddings", ["full", "input_only", "new_rows", "none"])
def test_a_loaded_model_is_the_trained_one_in_every_weight(
    tmp_path: Path, folders: dict[str, str], embeddings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Otter] = []
    assemble = assembly.assemble_model
    monkeypatch.setattr(
        "otter_train.training.session.assemble_model",
        lambda *given, **options: built.append(assemble(*given, **options)) or built[0],
    )
    run(tmp_path, **folders, embeddings=embeddings)
    torch.manual_seed(99)  # another process
    drawn = torch.get_rng_state()
    loaded = load_trained_model(tmp_path, device="cpu").model.state_dict()
    assert torch.equal(torch.get_rng_state(), drawn)
    trained = built[0].state_dict()
    assert loaded.keys() == trained.keys()
    assert [name for name in trained if not torch.equal(trained[name], loaded[name])] == []


@pytest.mark.parametrize("embeddings", ["full", "input_only", "none"])
def test_a_checkpoint_holds_what_is_trained_and_nothing_else(
    tmp_path: Path, folders: dict[str, str], embeddings: str
) -> None:
    weights = load_weights(open_checkpoint(run(tmp_path, **folders, embeddings=embeddings).checkpoint))
    matrices = {name for name in weights if not name.startswith(("perceiver.", "language.cross_attention."))}
    expected = {"full": {"lm_head", "embed_tokens"}, "input_only": {"embed_tokens"}, "none": set()}[embeddings]
    assert {name.split(".")[-2] for name in matrices} == expected
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert any(float(value.abs().max()) > 0 for name, value in weights.items() if name.endswith("attn_gate"))


def test_frozen_weights_in_bfloat16_learn_as_in_float32(tmp_path: Path, folders: dict[str, str]) -> None:
    exact = run(tmp_path / "float32", **folders, precision="float32")
    rounded = run(tmp_path / "bfloat16", **folders, precision="bfloat16")
    for one, other in zip(exact.rows, rounded.rows, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=0.02) and one.loss != other.loss


@pytest.mark.parametrize("family", ["falcon", "gpt2", "gpt_neo", "gpt_neox", "mpt", "opt"])
def test_decoders_with_layer_norms_learn_in_bfloat16_on_the_cpu(tmp_path: Path, family: str) -> None:
    trained = {"embeddings": "full", "max_steps": 1}
    known = {
        "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 4, "n_head": 4},
        "gpt_neo": {**LANGUAGES["phi"], "model_type": "gpt_neo", "num_heads": 4, "num_layers": 4}
        | {"attention_types": [[["global", "local"], 2]]},
    }
    folders = pretrained_folders(tmp_path, known.get(family) or LANGUAGES[family])
    exact = run(tmp_path / "float32", **folders, **trained, precision="float32")
    rounded = run(tmp_path / "bfloat16", **folders, **trained, precision="bfloat16")
    assert [row.loss for row in rounded.rows] == pytest.approx([row.loss for row in exact.rows], rel=0.03)


def test_the_parts_of_a_run_are_found_from_anywhere_and_never_taken_for_names(
    tmp_path: Path, folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, folder in folders.items():
        shutil.copytree(folder, tmp_path / "work" / "models" / name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    named = {name: f"models/{name}" for name in folders}
    run(Path("runs/first"), **named, max_steps=1)

    def finds(place: Path, **moved: str) -> bool:
        return load_trained_model(place, device="cpu", **moved).model is not None

    monkeypatch.chdir(tmp_path / "elsewhere")
    assert finds(tmp_path / "work" / "runs" / "first")
    again = {name: str(tmp_path / "work" / folder) for name, folder in named.items()}
    assert run(tmp_path / "work" / "runs" / "first", **again, max_steps=1).finished  # the same, in other words
    (tmp_path / "work").rename(tmp_path / "moved")
    assert finds(Path("../moved/runs/first"))
    (tmp_path / "moved" / "models").rename(tmp_path / "away")
    with pytest.raises(
        UsageError, match=r"language model that it was trained with is neither in .*work.* nor in .*moved.*--language"
    ):
        finds(tmp_path / "moved" / "runs" / "first")
    assert finds(tmp_path / "moved" / "runs" / "first", **{name: str(tmp_path / "away" / name) for name in folders})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("trained", [{"embeddings": "full"}, {"train_language": True}])
def test_what_is_trained_begins_with_the_values_of_the_file(
    tmp_path: Path, folders: dict[str, str], dtype: torch.dtype, trained: dict[str, Any]
) -> None:
    folders = {**folders, "language_model": str(shutil.copytree(folders["language_model"], tmp_path / "language"))}
    stored = AutoModelForCausalLM.from_pretrained(folders["language_model"], dtype=dtype)
    stored.save_pretrained(folders["language_model"])
    run(tmp_path / "run", **folders, **trained, max_steps=1, lr=1e-30, precision="bfloat16")
    weights = load_weights(open_checkpoint(tmp_path / "run"))
    held = {name: value for name, value in stored.state_dict().items() if f"language.lm.{name}" in weights}
    assert len(held) >= 2
    for name, value in held.items():
        kept = weights[f"language.lm.{name}"]
        assert kept.dtype == torch.float32 and torch.equal(kept[: len(value)], value.float())


def test_a_moved_language_model_is_found_again_when_it_is_named(tmp_path: Path, folders: dict[str, str]) -> None:
    moved = shutil.copytree(folders["language_model"], tmp_path / "before")
    run(tmp_path / "run", **{**folders, "language_model": str(moved)})
    moved.rename(tmp_path / "after")
    with pytest.raises(UsageError, match="--language-model"):
        load_trained_model(tmp_path / "run", device="cpu")
    trained = load_trained_model(tmp_path / "run", device="cpu", language_model=str(tmp_path / "after"))
    asked = [Colours().get(position) for position in range(5)]
    one_by_one = [answer for _, answer in answer_each(trained, asked, AnswerOptions(max_new_tokens=4), batch_size=1)]
    together = [answer for _, answer in answer_each(trained, asked, AnswerOptions(max_new_tokens=4), batch_size=5)]
    assert one_by_one == together


@pytest.mark.parametrize("embeddings", ["full", "input_only", "new_rows", "none"])
def test_a_run_exported_to_transformers_gives_equal_logits(
    tmp_path: Path, folders: dict[str, str], embeddings: str
) -> None:
    outcome = run(tmp_path / "run", **folders, embeddings=embeddings, lr=1e-2)
    convert(tmp_path / "run", tmp_path / "exported", to="ours")
    trained = load_trained_model(outcome.checkpoint, device="cpu")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "exported")
    processor = AutoProcessor.from_pretrained(tmp_path / "exported")
    assert (processor.image_size, processor.template) == (16, "otter")
    samples = [Colours().get(position) for position in range(3)]
    prompts = [trained.encoder.encode(sample, with_answer=False) for sample in samples]
    batch = collate(prompts, pad=trained.encoder.special.pad, image_size=16, pad_left=True)
    vision_x = normalise(batch.vision_x, trained.model.vision.mean, trained.model.vision.std)
    made = processor(
        [render(prompt.sample, with_answer=False) for prompt in prompts],
        [[Image.open(io.BytesIO(medium.data[0])) for medium in prompt.sample.media] for prompt in prompts],
    )
    assert torch.equal(made["input_ids"], batch.lang_x) and torch.equal(made["vision_x"], vision_x)
    with torch.no_grad():
        expected = trained.model(vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask).logits
        found = model(**made).logits
    real = batch.attention_mask
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=0)


def test_a_run_goes_to_the_published_layout_and_back(tmp_path: Path, folders: dict[str, str]) -> None:
    run(tmp_path / "run", **folders)
    convert(tmp_path / "run", tmp_path / "otter", to="otter")
    convert(tmp_path / "otter", tmp_path / "ours", to="ours")
    convert(tmp_path / "run", tmp_path / "direct", to="ours")
    there, direct = read_weights(tmp_path / "ours"), read_weights(tmp_path / "direct")
    assert there.keys() == direct.keys() and all(same_bits(there[key], direct[key]) for key in direct)
    for name in ("config.json", "processor_config.json", "generation_config.json"):
        assert (tmp_path / "ours" / name).read_text() == (tmp_path / "direct" / name).read_text()
    trained = convert(tmp_path / "run", tmp_path / "trained.safetensors", to="openflamingo", frozen="drop")
    assert trained.absent == ["vision.", "language.lm."]


def test_a_perceiver_of_its_own_width_goes_to_our_layout_only(tmp_path: Path, folders: dict[str, str]) -> None:
    run(tmp_path / "run", **folders, perceiver_width=8)
    convert(tmp_path / "run", tmp_path / "ours", to="ours")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    assert model.model.perceiver.project.weight.shape == (8, 32)
    for layout in ("otter", "openflamingo"):
        with pytest.raises(UsageError, match="--perceiver-width"):
            convert(tmp_path / "run", tmp_path / layout, to=layout)  # type: ignore[arg-type]


def test_weights_that_lie_here_are_read_without_a_bar(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for was_on in (True, False):
        monkeypatch.setattr("transformers.utils.logging._tqdm_active", was_on)
        read_pretrained(CLIPVisionModel, folders["vision_model"], "vision model")
        assert logging.is_progress_bar_enabled() is was_on, "it is as before for whoever calls us"
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", True)
    CLIPVisionModel.from_pretrained(folders["vision_model"])
    assert "weights" in capfd.readouterr().err, "there is a bar to be left out"
