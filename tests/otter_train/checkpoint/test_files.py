"""Checkpoints: absent or complete, damaged ones passed over by name, and nothing lost on the way back."""

from __future__ import annotations

import logging
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch

import otter_train.checkpoint.files
from mimicit.errors import SchemaError, TrainError
from mimicit.schema import validate
from otter_train.assembly.models import kept_weights, load_kept
from otter_train.checkpoint.files import (
    latest_checkpoint,
    load_optimizer_state,
    load_weights,
    open_checkpoint,
    remove_unfinished,
    save_checkpoint,
)
from otter_train.checkpoint.meta import check_tokens, generator_states, restore_generators
from otter_train.config.run_config import resolve
from otter_train.model import freeze
from tests.factories.otter import otter
from tests.factories.runs import meta
from tests.factories.train import TOKENIZER

WEIGHTS = {"perceiver.latents": torch.arange(6.0).view(2, 3), "language.gate": torch.tensor([0.5])}
MOMENTS = {name: {"exp_avg": value + 1, "step": torch.tensor(3.0)} for name, value in WEIGHTS.items()}
CPU = torch.device("cpu")
PRETRAINED = replace(resolve("tiny"), preset="otter-9b", language_model="a/b", vision_model="c/d")


def save(run: Path, step: int, *, keep: int = 3, weights: dict[str, torch.Tensor] = WEIGHTS) -> Path:
    return save_checkpoint(
        run, meta=meta(step), weights=weights, optimizer_state=MOMENTS, tokenizer=TOKENIZER, keep=keep
    )


def test_files_and_keys_are_pinned(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    assert folder.name == "checkpoint-00000005"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("meta.json", "model.safetensors", "optimizer.safetensors"),
        *("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
    }
    value = orjson.loads((folder / "meta.json").read_bytes())
    assert set(value) == {
        *("config", "files", "format", "guard", "loader", "model", "rng", "samples_seen", "seed"),
        *("special_tokens", "step", "template", "tokenizer", "total_steps", "versions"),
    }
    assert value["format"] == "otter-checkpoint/2"
    assert set(value["special_tokens"]) == {"bos", "eos", "<|endofchunk|>", "<image>", "<answer>", "<PAD>"}
    assert value["template"] == {"name": "otter", "version": 1, "before": "User:", "between": " GPT:"}
    assert set(value["files"]) == names - {"meta.json"}


def test_the_names_of_the_trained_weights_are_pinned() -> None:
    model = otter()
    freeze(model, "full")
    parts = {".".join(name.split(".")[:2]) for name in kept_weights(model, PRETRAINED)}
    assert parts == {
        *("language.cross_attention", "language.lm"),
        *("perceiver.latents", "perceiver.layers", "perceiver.norm"),
    }
    lm = {name for name in kept_weights(model, PRETRAINED) if name.startswith("language.lm")}
    assert lm == {"language.lm.lm_head.weight", "language.lm.model.embed_tokens.weight"}
    block = {name for name in kept_weights(model, PRETRAINED) if name.startswith("language.cross_attention.1.")}
    assert {name.removeprefix("language.cross_attention.1.") for name in block} == {
        *("attn_gate", "ff_gate", "attn.norm.weight", "attn.norm.bias", "attn.to_q.weight", "attn.to_kv.weight"),
        *("attn.to_out.weight", "feed_forward.0.weight", "feed_forward.0.bias"),
        *("feed_forward.1.weight", "feed_forward.3.weight"),
    }


def test_weights_and_optimizer_come_back(tmp_path: Path) -> None:
    save(tmp_path, 1)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1
    loaded = load_weights(checkpoint)
    assert loaded.keys() == WEIGHTS.keys() and all(torch.equal(loaded[name], WEIGHTS[name]) for name in WEIGHTS)
    state = load_optimizer_state(checkpoint)
    assert state.keys() == MOMENTS.keys()
    for name, parts in MOMENTS.items():
        assert state[name].keys() == parts.keys()
        assert all(torch.equal(state[name][part], parts[part]) for part in parts)


def test_of_a_model_from_scratch_everything_is_kept() -> None:
    model = otter()
    freeze(model, "none")
    scratch, pretrained = kept_weights(model, resolve("tiny")), kept_weights(model, PRETRAINED)
    assert scratch.keys() == dict(model.named_parameters()).keys() > pretrained.keys()
    assert not any("embed_tokens" in name for name in pretrained)


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 11, 100):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000011", "checkpoint-00000100"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "meta", "empty"])
def test_a_damaged_checkpoint_is_passed_over_by_name(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 10)
    last = save(tmp_path, 20)
    weights = last / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "flipped":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "missing":
        (last / "optimizer.safetensors").unlink()
    elif damage == "meta":
        (last / "meta.json").write_text('{"format": "otter-checkpoint/2", "step": 20}')
    else:
        shutil.rmtree(last)
        last.mkdir()
    with caplog.at_level(logging.WARNING):
        checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 10
    assert last.name in caplog.text
    save(tmp_path, 20)  # the resumed run gets there again
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 20


@pytest.mark.parametrize("name", ["meta.json", "model.safetensors"])
def test_a_fifo_in_a_checkpoint_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, 1)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(TrainError, match=rf"damaged.*{name}"):
        open_checkpoint(folder)


def test_when_all_are_damaged_it_is_an_error(tmp_path: Path) -> None:
    (save(tmp_path, 10) / "meta.json").unlink()
    with pytest.raises(TrainError, match="damaged"):
        latest_checkpoint(tmp_path)


def test_what_a_killed_process_left_is_not_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 10)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(otter_train.checkpoint.files, "_replace_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 20)
    (tmp_path / ".checkpoint-00000030.tmp").mkdir()
    monkeypatch.undo()
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 10
    assert open_checkpoint(tmp_path).step == open_checkpoint(tmp_path / "checkpoint-00000010").step == 10


def test_no_checkpoint_is_none_to_resume_and_an_error_to_open(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "nowhere") is None
    with pytest.raises(TrainError, match="no checkpoint in it"):
        open_checkpoint(tmp_path)


def test_meta_data_may_not_name_files_outside(tmp_path: Path) -> None:
    folder = save(tmp_path, 10)
    value = orjson.loads((folder / "meta.json").read_bytes())
    value["files"]["../../secret"] = {"bytes": 1, "sha256": "0" * 64}
    (folder / "meta.json").write_bytes(orjson.dumps(value))
    with pytest.raises(TrainError, match="outside"):
        open_checkpoint(folder)


@pytest.mark.parametrize("place", [(), ("files", "model.safetensors"), ("special_tokens",)])
def test_keys_of_the_meta_data_that_nobody_knows_are_named(tmp_path: Path, place: tuple[str, ...]) -> None:
    folder = save(tmp_path, 10)
    value = orjson.loads((folder / "meta.json").read_bytes())
    inside = value
    for name in place:
        inside = inside[name]
    inside["of_nobody"] = 1
    (folder / "meta.json").write_bytes(orjson.dumps(value))
    with pytest.raises(TrainError, match="of_nobody"):
        open_checkpoint(folder)


def test_the_schema_refuses_what_is_not_a_checkpoint() -> None:
    with pytest.raises(SchemaError):
        validate("checkpoint", {**meta(1), "format": "otter-checkpoint/1", "files": {}})


def test_weights_that_do_not_fit_are_named() -> None:
    model = otter()
    freeze(model, "none")
    weights = kept_weights(model, PRETRAINED)
    load_kept(model, PRETRAINED, {name: value.clone() for name, value in weights.items()})
    wrong = {**weights, "perceiver.latents": torch.zeros(1, 1), "stranger": torch.zeros(1)}
    del wrong["perceiver.norm.weight"]
    with pytest.raises(
        TrainError, match=r"perceiver\.norm\.weight is missing; stranger is unknown; .*latents has shape"
    ):
        load_kept(model, PRETRAINED, wrong)


def test_another_order_of_the_special_tokens_is_noticed() -> None:
    value = meta(1)
    check_tokens(value, TOKENIZER)
    value["special_tokens"]["<image>"] += 1
    with pytest.raises(TrainError, match="<image>"):
        check_tokens(value, TOKENIZER)


def test_random_generators_come_back() -> None:
    states = orjson.loads(orjson.dumps(generator_states(CPU)))

    def draw() -> list[float]:
        return [float(torch.rand(())), random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]

    first = draw()
    assert draw() != first
    restore_generators(states, CPU)
    assert draw() == first


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_tensors_are_read_without_running_code(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, 10)
    torch.save({"state": Path("/")}, folder / name)  # a pickle
    checkpoint = otter_train.checkpoint.files.Checkpoint(folder, meta(10))
    with pytest.raises(TrainError, match="unreadable"):
        load_weights(checkpoint) if name.startswith("model") else load_optimizer_state(checkpoint)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = save(tmp_path, 10)
    (tmp_path / ".checkpoint-00000020.tmp" / "tokenizer").mkdir(parents=True)
    (tmp_path / ".checkpoint-00000010.old").mkdir()
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [folder]
