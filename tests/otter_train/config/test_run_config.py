"""Presets are the paper's recipe and a small one; contradictions are refused before anything heavy is loaded."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="comes with the extra 'train'")

from mimicit.errors import UsageError
from mimicit.schema import canonical_json
from otter_train import chat, evaluate, generate, serve
from otter_train.__main__ import main
from otter_train.config.run_config import PRESETS, RECIPES, Embeddings, RunConfig, RunOptions, difference, resolve
from otter_train.model import PRESETS as MODELS
from otter_train.model.trainable import EmbeddingMode


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, str]:
    return {"language_model": str(tmp_path), "vision_model": str(tmp_path)}


def test_the_defaults_are_those_of_the_paper(weights: dict[str, str]) -> None:
    config = resolve(None, **weights, batch_size=4)
    assert config.preset == "otter-9b"
    assert (config.lr, config.batch_size, config.epochs, config.clip) == (1e-5, 4, 6, 1.0)
    assert (config.schedule, config.warmup, config.weight_decay) == ("cosine", 0.01, 0.1)
    assert (config.label_mode, config.embeddings, config.max_steps) == ("span", "full", 0)
    assert config.batch_tokens == 0
    assert resolve(None, **weights) == config


@pytest.mark.parametrize(
    ("given", "rows", "tokens", "room"),
    [
        ({}, 4, 0, 4),
        ({"max_tokens": 2048}, 4, 0, 4),
        ({"batch_size": 8}, 8, 0, 8),
        ({"batch_tokens": 16384}, 1, 16384, 32),
        ({"batch_tokens": 4096, "batch_size": 8}, 8, 4096, 64),
        ({"batch_tokens": 0}, 4, 0, 4),
    ],
)
def test_a_batch_counts_samples_or_rows(
    weights: dict[str, str], given: dict[str, int], rows: int, tokens: int, room: int
) -> None:
    config = resolve(None, **weights, **given)
    assert (config.batch_size, config.batch_tokens, config.room) == (rows, tokens, room)
    assert resolve(**config.to_json()) == config  # the config.json of a run says the same again


def test_the_recipe_of_the_paper_fixes_all_settings(weights: dict[str, str]) -> None:
    config = resolve(None, recipe="paper", **weights, seed=7, precision="bfloat16")
    assert (config.preset, config.batch_size, config.batch_tokens, config.epochs) == ("otter-9b", 4, 0, 6)
    assert (config.lr, config.schedule, config.warmup, config.clip) == (1e-5, "cosine", 0.01, 1.0)
    assert (config.label_mode, config.guard, config.embeddings) == ("paper", "off", "full")
    assert (config.weight_decay, config.beta2, config.seed) == (0.1, 0.999, 7)
    free = {"language_model", "vision_model", "seed", "precision", "init_from", "guard_factor"}
    shape = {"latents", "latent_std", "perceiver_depth", "perceiver_width"}
    shape |= {"cross_attention_every", "cross_attention_gate"}
    assert {field.name for field in fields(RunConfig)} - free - shape == set(RECIPES["paper"])
    for name, other in {"lr": 1e-4, "label_mode": "span", "batch_tokens": 512, "guard": "skip"}.items():
        with pytest.raises(UsageError, match=f"--recipe paper fixes --{name.replace('_', '-')} at"):
            resolve(None, recipe="paper", **weights, **{name: other})
    with pytest.raises(UsageError, match="--preset"):
        resolve("tiny", recipe="paper", **weights)
    text = Path("docs/training.md").read_text()
    assert all(f"`--{name.replace('_', '-')}`" in text for name in RECIPES["paper"] if name != "preset")


def test_the_small_preset_counts_samples() -> None:
    assert (resolve("tiny").batch_size, resolve("tiny").batch_tokens) == (32, 0)
    assert resolve("tiny", batch_tokens=1000).batch_size == 1


def test_without_weights_the_preset_is_tiny_and_options_win_over_it() -> None:
    assert resolve(None).preset == "tiny"
    assert resolve("tiny", lr=0.5, epochs=None).lr == 0.5
    assert resolve("tiny", epochs=None).epochs == PRESETS["tiny"].get("epochs", RunConfig.epochs)


def test_every_preset_is_a_model_and_names_real_fields() -> None:
    assert set(PRESETS) == set(MODELS)
    assert {name for recipe in PRESETS.values() for name in recipe} <= {field.name for field in fields(RunConfig)}
    assert get_args(Embeddings) == get_args(EmbeddingMode)


@pytest.mark.parametrize(
    ("preset", "given", "message"),
    [
        ("otter-9b", {}, "--language-model PATH"),
        ("otter-9b", {"language_model": "/nowhere/at/all", "vision_model": "/"}, "no such folder"),
        ("tiny", {"language_model": "/"}, "leave out --language-model"),
        ("huge", {}, "there are: otter-9b, tiny"),
        ("tiny", {"lr": 0.0}, "--lr"),
        ("tiny", {"lr": float("nan")}, "--lr"),
        ("tiny", {"epochs": 0}, "--epochs 0"),
        ("tiny", {"warmup": 1.5}, "--warmup"),
        ("tiny", {"clip": -1.0}, "--clip"),
        ("tiny", {"beta2": 1.0}, "--beta2 1.0"),
        ("tiny", {"beta2": float("nan")}, "--beta2 nan"),
        ("tiny", {"schedule": "square"}, "--schedule square: no such choice; there are: cosine, linear, constant"),
        ("tiny", {"schedule": "liner"}, "--schedule liner: no such choice; did you mean linear"),
        ("tiny", {"template": "none"}, "--template none: no such choice; there are: chat, llama2"),
        ("tiny", {"cross_attention_gate": 3.5}, "--cross-attention-gate 3.5: must be between 0 and 3"),
        ("tiny", {"guard_factor": 0.5}, "--guard-factor 0.5: must be more than 1, or 0"),
        ("tiny", {"lr": float("inf")}, "--lr inf: must be more than 0 and finite"),
    ],
)
def test_contradictions_are_refused_with_the_mend(preset: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(preset, **given)


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"accumulate": 0}, {"log_every": 0}, {"save_every": -5}])
def test_options_have_limits(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be at least"):
        RunOptions(**wrong)  # type: ignore[arg-type]


def test_the_stored_defaults_are_pinned() -> None:
    """A change here changes what the same command line trains, and is labelled CLI in the changelog."""
    stored = canonical_json([resolve("tiny").to_json(), asdict(RunOptions())])
    assert hashlib.sha256(stored).hexdigest() == "9981a5d54fecae8fb09603fc1437082c81c683d200f72485a46a0e9e9ec9f59f"


def test_a_stored_configuration_comes_back_and_differences_are_named() -> None:
    config = resolve("tiny", seed=3)
    assert RunConfig.from_json(config.to_json()) == config
    assert difference(config.to_json(), resolve("tiny", seed=4, lr=0.5).to_json()) == {
        "lr": f"lr was {config.lr}, is 0.5",
        "seed": "seed was 3, is 4",
    }


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys\n"
        "import otter_train.__main__, otter_train.generate, otter_train.evaluate, otter_train.chat, otter_train.serve\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib', 'starlette', 'uvicorn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=240).returncode == 0
    for command in (main, generate.main, evaluate.main, chat.main, serve.main):
        result = CliRunner().invoke(command, ["--help"])
        assert result.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "otter-9b"], "--language-model PATH"),
        (["--workers", "-1"], "--workers -1"),
        (["--lr", "0"], "--lr"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["--shards", str(tmp_path), "--out", str(tmp_path / "run"), *arguments])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert message in result.output
