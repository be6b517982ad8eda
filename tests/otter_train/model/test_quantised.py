"""Frozen language models in 8 or 4 bits: close to the whole ones, small while they are trained, and kept nowhere."""

from __future__ import annotations

import builtins
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torchao", reason="comes with the extra 'quantize'")

import torch
from click.testing import CliRunner
from torch import nn

from mimicit.errors import TrainError, UsageError
from otter_train.assembly.models import assemble_model, model_config
from otter_train.checkpoint.files import latest_checkpoint, load_optimizer_state, load_weights
from otter_train.config.run_config import Quantised, RunOptions, resolve
from otter_train.convert import main as convert
from otter_train.data.tokenizer import load_tokenizer
from otter_train.inference.answering import load_trained_model
from otter_train.model import Otter
from otter_train.model.adapters import is_adapter
from otter_train.model.speed import QuantisedLinear, quantised_count
from otter_train.model.trainable import trainable_parameters
from otter_train.reporting.metrics import Console
from otter_train.training.loop import train
from tests.factories.answering import logits
from tests.factories.pretrained import SMALL_PERCEIVER, pretrained_folders
from tests.factories.ranks import on_ranks
from tests.factories.train import Colours

KINDS: tuple[Quantised, ...] = ("int8", "nf4")
BYTES = {"int8": (1.0, 1.1), "nf4": (0.5, 0.55)}  # a weight, with its share of the scales
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {**pretrained_folders(tmp_path_factory.mktemp("pretrained")), **SMALL_PERCEIVER}


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Any]) -> Path:
    """A run of four steps with adapters over a quantised language model beside what is trained always."""
    place = tmp_path_factory.mktemp("trained") / request.param
    run(place, **folders, quantize_language=request.param)
    return place


def run(folder: Path, device: str = "cpu", **given: Any) -> str:
    settings = {"batch_size": 4, "max_steps": 4, "lr": 1e-3, "embeddings": "new_rows", "lora_rank": 4, **given}
    said = io.StringIO()
    train(
        resolve(None, **settings),
        Colours(),
        folder,
        options=RunOptions(workers=0, log_every=1, save_every=2, device=device),
        console=Console(said),
    )
    return said.getvalue()


def built(folders: dict[str, Any], **given: Any) -> Otter:
    config = resolve(None, **folders, **{"embeddings": "none", **given})
    torch.manual_seed(3)
    tokenizer = load_tokenizer(folders["language_model"])
    return assemble_model(model_config(config), config, tokenizer, CPU).eval()


def quantised(kind: Quantised, rows: int = 512, columns: int = 256) -> tuple[nn.Linear, QuantisedLinear]:
    torch.manual_seed(0)
    linear = nn.Linear(columns, rows).requires_grad_(False)
    return linear, QuantisedLinear(linear, kind, CPU)


def stored_bytes(weight: Any) -> int:
    """What a quantised matrix holds, without the 16 numbers that NF4 knows."""
    inner = [getattr(weight, name) for name in weight.__tensor_flatten__()[0] if name != "nf4"]
    return sum(one.untyped_storage().nbytes() for one in inner)


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_takes_a_byte_or_half_a_byte_for_each_weight(kind: Quantised) -> None:
    linear, few = quantised(kind)
    least, most = BYTES[kind]
    assert least <= stored_bytes(few.weight) / linear.weight.numel() <= most
    assert few.weight.shape == linear.weight.shape and few.weight.numel() == linear.weight.numel()


@pytest.mark.parametrize("kind", KINDS)
def test_products_and_gradients_are_those_of_the_stored_matrix(kind: Quantised) -> None:
    linear, few = quantised(kind)
    input = torch.randn(3, 5, 256, requires_grad=True)
    whole = torch.stack([few(one) - few.bias for one in torch.eye(256)]).T
    product = few(input)
    torch.testing.assert_close(product, input @ whole.T + few.bias)
    (gradient,) = torch.autograd.grad(product.square().sum(), input)
    (expected,) = torch.autograd.grad((input @ whole.T + few.bias).square().sum(), input)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    apart = (whole - linear.weight).abs().max() / linear.weight.abs().max()
    assert 0 < apart < {"int8": 0.01, "nf4": 0.2}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_no_matrix_is_kept_whole_for_the_way_back(kind: Quantised) -> None:
    _, few = quantised(kind)
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel() if type(tensor) is torch.Tensor else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        few(torch.randn(4, 256, requires_grad=True)).sum()
    assert max(kept, default=0) < few.weight.numel() / 100


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_has_its_precision(kind: Quantised) -> None:
    _, few = quantised(kind)
    input = torch.randn(4, 256, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        product = few(input)
    assert product.dtype == torch.bfloat16
    product.float().sum().backward()
    torch.testing.assert_close(product.float(), few(input.detach()), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_layers_are_quantised_and_nothing_else(folders: dict[str, Any], kind: Quantised) -> None:
    plain, few = built(folders), built(folders, quantize_language=kind, lora_rank=2)
    names = [name for name, one in few.named_modules() if isinstance(one, QuantisedLinear)]
    assert names and all(".layers." in name and name.endswith(".base_layer") for name in names)
    layers = [name for name, one in plain.language.named_modules() if type(one) is nn.Linear and ".layers." in name]
    assert len(names) == len(layers)
    assert {name for name, _ in trainable_parameters(few) if not is_adapter(name)} == {
        name for name, _ in trainable_parameters(plain)
    }
    embedding = plain.language.lm.get_input_embeddings().weight
    assert torch.equal(few.language.lm.get_input_embeddings().weight, embedding)


def test_a_checkpoint_holds_none_of_it(trained: Path) -> None:
    checkpoint = latest_checkpoint(trained)
    assert checkpoint is not None
    weights = load_weights(checkpoint)
    assert set(load_optimizer_state(checkpoint)) == set(weights)
    assert [name for name in weights if name.startswith("language.lm.") and not is_adapter(name)] == []


def test_a_run_that_was_stopped_goes_on_exactly(trained: Path, folders: dict[str, Any], tmp_path: Path) -> None:
    again = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(again / "checkpoint-00000004")
    assert "stored in few bits" in run(again, **folders, quantize_language=trained.name)
    ours, theirs = latest_checkpoint(again), latest_checkpoint(trained)
    assert ours is not None and theirs is not None and ours.step == theirs.step == 4
    for name, tensor in load_weights(theirs).items():
        assert torch.equal(load_weights(ours)[name], tensor), name


def test_it_is_asked_and_converted_like_any_run(trained: Path, folders: dict[str, Any], tmp_path: Path) -> None:
    asked = load_trained_model(trained, device="cpu")
    assert quantised_count(asked.model) > 0
    result = CliRunner().invoke(convert, [str(trained), str(tmp_path / "merged"), "--to", "ours", "--with-frozen"])
    assert result.exit_code == 0, result.output
    merged = load_trained_model(tmp_path / "merged", device="cpu")
    assert quantised_count(merged.model) == 0
    # Adapters are added to the weights as they were published, so what quantising cost is gone.
    found, expected = logits(merged.model, asked), logits(asked.model, asked)
    near = {"int8": 0.02, "nf4": 0.3}[trained.name]
    assert 0 < (found - expected).abs().max() < near * expected.abs().max()
    adapter = CliRunner().invoke(convert, [str(trained), str(tmp_path / "adapter"), "--to", "peft"])
    assert adapter.exit_code == 0, adapter.output


@pytest.mark.parametrize("trained", ["nf4"], indirect=True)
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_are_one(trained: Path, folders: dict[str, Any], tmp_path: Path) -> None:
    on_ranks(2, lambda rank: run(tmp_path / "two", **folders, quantize_language=trained.name) and None)
    alone, two = latest_checkpoint(trained), latest_checkpoint(tmp_path / "two")
    assert alone is not None and two is not None
    for name, tensor in load_weights(alone).items():
        torch.testing.assert_close(load_weights(two)[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quantize_language": "int4"}, "--quantize-language int4: no such choice"),
        ({"quantize_language": "nf4", "train_language": True}, "leave out one of the two"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    folders: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(None, **folders, **given)
    with pytest.raises(UsageError, match="is for a pretrained model; name it with --language-model"):
        resolve("tiny", quantize_language="nf4")


def test_a_model_without_linear_layers_is_named(tmp_path: Path) -> None:
    shape = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2}
    with pytest.raises(TrainError, match="a gpt2 model has no linear layers"):
        built(pretrained_folders(tmp_path, shape), quantize_language="int8", cross_attention_every=1)


def test_without_torchao_the_extra_is_named(folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = builtins.__import__

    def importing(name: str, *rest: Any) -> Any:
        if name.startswith("torchao"):
            raise ImportError(name)
        return kept(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(UsageError, match=r"--quantize-language needs torchao: pip install 'mimicit\[quantize\]'"):
        built(folders, quantize_language="int8")
