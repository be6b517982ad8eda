"""Training between a frozen language model and a frozen vision tower, both from local folders."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from tokenizers import Tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mimicit.errors import UsageError
from otter_train.checkpoint import load_weights, open_checkpoint
from otter_train.config import RunOptions, resolve
from otter_train.inference import answer_each, load_trained_model
from otter_train.metrics import Console
from otter_train.train import Outcome, train
from tests.factories.train import TOKENIZER, Colours


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A LLaMA and a CLIP tower of random weights, as transformers saves them; the tokenizer has no special tokens."""
    place = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    words = Tokenizer.from_str(TOKENIZER.backend_tokenizer.to_str().replace("<image>", "<unused>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    language = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
        )
    )
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
    )
    language.save_pretrained(place / "language")
    tokenizer.save_pretrained(place / "language")
    vision.save_pretrained(place / "vision")
    return {"language_model": str(place / "language"), "vision_model": str(place / "vision")}


def run(folder: Path, **given: Any) -> Outcome:
    return train(
        resolve(None, **{"batch_size": 4, "max_steps": 3, "lr": 1e-3, **given}),
        Colours(),
        folder,
        options=RunOptions(workers=0, log_every=1, device="cpu"),
        console=Console(io.StringIO()),
    )


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


def test_a_moved_language_model_is_found_again_when_it_is_named(tmp_path: Path, folders: dict[str, str]) -> None:
    moved = shutil.copytree(folders["language_model"], tmp_path / "before")
    run(tmp_path / "run", **{**folders, "language_model": str(moved)})
    moved.rename(tmp_path / "after")
    with pytest.raises(UsageError, match="--language-model"):
        load_trained_model(tmp_path / "run", device="cpu")
    trained = load_trained_model(tmp_path / "run", device="cpu", language_model=str(tmp_path / "after"))
    asked = [Colours().get(position) for position in range(5)]
    one_by_one = [answer for _, answer in answer_each(trained, asked, max_new_tokens=4, batch_size=1)]
    together = [answer for _, answer in answer_each(trained, asked, max_new_tokens=4, batch_size=5)]
    assert one_by_one == together
