"""LoRA adapters: nothing before the first step, alone among what is trained, kept, resumed, merged, read by peft."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft", reason="comes with the extra 'adapters'")

import torch
from click.testing import CliRunner
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from mimicit.errors import UsageError
from otter_train.assembly.models import assemble_model, model_config
from otter_train.checkpoint.files import latest_checkpoint, load_optimizer_state, load_weights
from otter_train.config.run_config import RunOptions, resolve
from otter_train.convert import main as convert
from otter_train.data.tokenizer import load_tokenizer
from otter_train.inference import AnswerOptions
from otter_train.inference.answering import answer_each, load_trained_model
from otter_train.model import Otter
from otter_train.model.adapters import is_adapter
from otter_train.model.trainable import trainable_parameters
from otter_train.reporting.metrics import Console
from otter_train.training.loop import Outcome, train
from otter_train.training.optimizer import make_optimizer, set_rates
from tests.factories.answering import logits
from tests.factories.pretrained import SMALL_PERCEIVER, pretrained_folders
from tests.factories.ranks import on_ranks
from tests.factories.train import Colours


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {**pretrained_folders(tmp_path_factory.mktemp("pretrained")), **SMALL_PERCEIVER}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Any]) -> Path:
    """A run of four steps with adapters on both models beside what is trained always."""
    place = tmp_path_factory.mktemp("adapted") / "run"
    run(place, **folders, lora_rank=4, lora_on="both", lr_language=3e-2)
    return place


def run(folder: Path, *, options: RunOptions | None = None, **given: Any) -> Outcome:
    settings = {"batch_size": 4, "max_steps": 4, "lr": 1e-3, "embeddings": "none", "schedule": "constant", **given}
    return train(
        resolve(None, **settings),
        Colours(),
        folder,
        options=options or RunOptions(workers=0, log_every=1, save_every=2, device="cpu"),
        console=Console(io.StringIO()),
    )


def built(folders: dict[str, Any], **given: Any) -> Otter:
    config = resolve(None, **folders, **{"embeddings": "none", **given})
    torch.manual_seed(3)
    tokenizer = load_tokenizer(folders["language_model"])
    return assemble_model(model_config(config), config, tokenizer, torch.device("cpu")).eval()


@pytest.mark.parametrize("place", ["language", "vision", "both"])
def test_before_the_first_step_they_change_nothing(folders: dict[str, Any], adapted: Path, place: str) -> None:
    trained = load_trained_model(adapted, device="cpu")
    plain, with_adapters = built(folders), built(folders, lora_rank=4, lora_on=place)
    with_adapters.perceiver.load_state_dict(plain.perceiver.state_dict())
    with_adapters.language.cross_attention.load_state_dict(plain.language.cross_attention.state_dict())
    assert torch.equal(logits(plain, trained), logits(with_adapters, trained))


def test_they_alone_are_trained_beside_what_always_is(folders: dict[str, Any]) -> None:
    names = {name for name, _ in trainable_parameters(built(folders, lora_rank=2))}
    always = {name for name, _ in trainable_parameters(built(folders))}
    adapters = {name for name in names if is_adapter(name)}
    assert names - adapters == always and all(name.startswith("language.lm.") for name in adapters)
    only = {name for name, _ in trainable_parameters(built(folders, lora_rank=2, lora_only=True))}
    assert only == adapters
    some = trainable_parameters(built(folders, lora_rank=2, lora_targets="q_proj, v_proj", lora_only=True))
    assert {name.split(".")[-4] for name, _ in some} == {"q_proj", "v_proj"}
    towers = {name for name, _ in trainable_parameters(built(folders, lora_rank=2, lora_on="vision", lora_only=True))}
    assert towers and all(name.startswith("vision.") and is_adapter(name) for name in towers)


def test_a_checkpoint_holds_them_and_not_what_they_adapt(adapted: Path) -> None:
    checkpoint = latest_checkpoint(adapted)
    assert checkpoint is not None
    weights, moments = load_weights(checkpoint), load_optimizer_state(checkpoint)
    assert set(moments) == set(weights) and any(map(is_adapter, weights))
    frozen = [name for name in weights if name.startswith(("language.lm.", "vision.")) and not is_adapter(name)]
    assert frozen == []
    assert all(weights[name].any() for name in weights if ".lora_B." in name)


def test_a_run_that_was_stopped_goes_on_exactly(adapted: Path, folders: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(adapted, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-00000004")
    run(tmp_path / "run", **folders, lora_rank=4, lora_on="both", lr_language=3e-2)
    ours, theirs = latest_checkpoint(tmp_path / "run"), latest_checkpoint(adapted)
    assert ours is not None and theirs is not None
    for name, tensor in load_weights(theirs).items():
        torch.testing.assert_close(load_weights(ours)[name], tensor, rtol=0, atol=0)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_that_share_the_frozen_weights_are_one(
    adapted: Path, folders: dict[str, Any], tmp_path: Path
) -> None:
    """Also where one goes on with what two have begun."""
    usual = {**folders, "lora_rank": 4, "lora_on": "both", "lr_language": 3e-2}
    shared = RunOptions(workers=0, log_every=1, save_every=2, device="cpu", shard_frozen=True)
    on_ranks(2, lambda rank: run(tmp_path / "two", options=shared, **usual) and None)
    whole, two = latest_checkpoint(adapted), latest_checkpoint(tmp_path / "two")
    assert whole is not None and two is not None and whole.step == two.step
    weights = load_weights(two)
    assert weights.keys() == load_weights(whole).keys()
    for name, tensor in load_weights(whole).items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)
    shutil.rmtree(tmp_path / "two" / "checkpoint-00000004")
    run(tmp_path / "two", **usual)
    again = latest_checkpoint(tmp_path / "two")
    assert again is not None
    for name, tensor in load_weights(again).items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)


def test_merged_weights_give_the_same_answers(adapted: Path, tmp_path: Path) -> None:
    trained = load_trained_model(adapted, device="cpu")
    samples = [Colours().get(place) for place in range(4)]
    options = AnswerOptions(max_new_tokens=6)
    for target, form in (("merged", "ours"), ("merged-otter", "otter"), ("merged.safetensors", "openflamingo")):
        result = CliRunner().invoke(convert, [str(adapted), str(tmp_path / target), "--to", form, "--with-frozen"])
        assert result.exit_code == 0, result.output
        merged = load_trained_model(tmp_path / target, device="cpu")
        torch.testing.assert_close(logits(merged.model, trained), logits(trained.model, trained), rtol=0, atol=2e-5)
        assert list(answer_each(merged, samples, options)) == list(answer_each(trained, samples, options))
    exported = AutoModelForImageTextToText.from_pretrained(str(tmp_path / "merged"))
    assert not any("lora" in name for name, _ in exported.named_parameters())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers so
def test_peft_loads_those_of_the_language_model(adapted: Path, folders: dict[str, Any], tmp_path: Path) -> None:
    result = CliRunner().invoke(convert, [str(adapted), str(tmp_path / "adapter"), "--to", "peft"])
    assert result.exit_code == 0, result.output
    ours = load_trained_model(adapted, device="cpu").model.language.lm
    base = AutoModelForCausalLM.from_pretrained(folders["language_model"], dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    ids = torch.tensor([[5, 9, 17, 3]])
    bare = AutoModelForCausalLM.from_pretrained(folders["language_model"], dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(ids).logits
        assert not torch.equal(expected, bare(ids).logits)
    names = {name.removeprefix("base_model.model."): tensor for name, tensor in theirs.named_parameters()}
    for name, tensor in ours.named_parameters():
        if is_adapter(name):
            torch.testing.assert_close(names[name], tensor, rtol=0, atol=0)
    assert "not in it: language.cross_attention, perceiver, vision" in result.output
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert described["target_modules"] == sorted(described["target_modules"])  # peft has a set of them
    assert described["base_model_name_or_path"] == folders["language_model"]
    refused = CliRunner().invoke(convert, [str(adapted), str(tmp_path / "adapter"), "--to", "peft"])
    assert refused.exit_code == 2 and "is there already" in refused.output
    refused = CliRunner().invoke(convert, [str(adapted), str(tmp_path / "new"), "--to", "peft", "--format", "bin"])
    assert refused.exit_code == 2 and "adapters alone; leave out --format" in refused.output


def test_a_run_that_moved_with_its_models_is_converted(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    run(here / "run", **pretrained_folders(here / "pretrained"), lora_rank=2, max_steps=1)
    here.rename(tmp_path / "there")
    moved = tmp_path / "there" / "run"
    for target, form in (("merged", "ours"), ("openflamingo.safetensors", "openflamingo"), ("adapter", "peft")):
        command = [str(moved), str(tmp_path / target), "--to", form]
        result = CliRunner().invoke(convert, command if form == "peft" else [*command, "--with-frozen"])
        assert result.exit_code == 0, result.output
        assert (tmp_path / target).exists()
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(tmp_path / "there" / "pretrained" / "language")


def test_parts_have_rates_of_their_own(folders: dict[str, Any]) -> None:
    model = built(folders, train_vision=True, lora_rank=2)
    rates = {"perceiver.": 1e-2, "language.cross_attention.": None, "language.": 3e-3, "vision.": 1e-5}
    optimizer = make_optimizer(model, lr=1e-4, weight_decay=0.1, rates=rates)
    set_rates(optimizer, 0.5e-4)  # half way down the schedule
    found = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    expected = {"perceiver": 5e-3, "language.cross_attention": 0.5e-4, "language.lm": 1.5e-3, "vision": 0.5e-5}
    for name, parameter in trainable_parameters(model):
        own = next(rate for part, rate in expected.items() if name.startswith(part))
        assert found[id(parameter)] == pytest.approx(own), name
    assert len(found) == len(trainable_parameters(model))


def test_the_pretrained_tower_is_trained_and_kept(folders: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path, **folders, train_vision=True, cross_attention_gate=1.0)
    start = built(folders).vision.state_dict()
    trained = load_trained_model(tmp_path, device="cpu").model.vision.state_dict()
    moved = {name for name, tensor in trained.items() if not torch.equal(tensor, start[name])}
    assert len(moved) > 5 and not any("post_layernorm" in name for name in moved)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora_only": True}, "give --lora-rank too"),
        ({"lora_rank": 4, "train_language": True}, "leave out one of the two"),
        ({"lora_rank": 4, "lora_alpha": -1.0}, "--lora-alpha -1.0: must be more than 0"),
        ({"lora_rank": -1}, "--lora-rank -1: must be at least 0"),
        ({"lora_rank": 4, "lora_targets": " , "}, "--lora-targets ' , ': names no matrix"),
        ({"lr_vision": 0.0}, "--lr-vision 0.0: must be more than 0"),
        ({"lr_vision": 1e-5}, "--lr-vision: nothing of that part is trained"),
        ({"lr_vision": 1e-5, "lora_rank": 4}, "--lr-vision: nothing of that part is trained"),
        ({"lr_language": 1e-5, "embeddings": "none"}, "--lr-language: nothing of that part is trained"),
        ({"lr_perceiver": 1e-5, "lora_rank": 4, "lora_only": True}, "--lr-perceiver: nothing of that part is trained"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    folders: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(None, **folders, **given)


def test_rates_of_what_is_trained_are_taken(folders: dict[str, Any]) -> None:
    resolve("tiny", lr_perceiver=1e-3, lr_cross_attention=1e-3, lr_language=1e-3, lr_vision=1e-3)
    for given in ({"train_vision": True}, {"lora_rank": 4, "lora_on": "both", "lora_only": True}):
        resolve(None, **folders, **given, lr_language=1e-3, lr_vision=1e-3)


def test_what_there_is_nothing_to_adapt_for_is_named(folders: dict[str, Any], tmp_path: Path, adapted: Path) -> None:
    with pytest.raises(UsageError, match="adapters need a pretrained model"):
        resolve("tiny", lora_rank=4)
    with pytest.raises(UsageError, match="--train-vision thaws a pretrained model"):
        resolve("tiny", train_vision=True)
    with pytest.raises(UsageError, match=r"no layer is called key, query; there are: .*q_proj"):
        built(folders, lora_rank=4, lora_targets="query,q_proj,key")
    with pytest.raises(UsageError, match=r"the vision model has no target; there are: .*q_proj"):
        built(folders, lora_rank=4, lora_targets="gate_proj", lora_on="both")
    with pytest.raises(UsageError, match=r"it holds adapters; otter_train\.convert"):
        run(tmp_path / "new", **folders, init_from=str(adapted))
    result = CliRunner().invoke(convert, [folders["language_model"], str(tmp_path / "x"), "--to", "peft"])
    assert result.exit_code == 2 and "no training run" in result.output
