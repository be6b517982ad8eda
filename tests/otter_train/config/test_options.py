"""The options of the training programs; a change here is labelled CLI in the changelog."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mimicit.cli import main as mimicit
from mimicit.errors import UsageError
from otter_train.__main__ import main as train
from otter_train.chat import main as chat
from otter_train.evaluate import main as evaluate
from otter_train.generate import main as generate
from otter_train.serve import main as serve


def options(command: click.Command) -> list[str]:
    return sorted(name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts))


def test_options_are_pinned() -> None:
    assert options(train) == [
        "--accumulate", "--batch-size", "--batch-tokens", "--beta2", "--checkpoint-activations", "--clip", "--compile",
        "--config", "--context-order", "--continue-as", "--cross-attention-every", "--cross-attention-gate", "--device",
        "--embeddings", "--epochs", "--eval-every", "--eval-limit", "--eval-shards", "--guard", "--guard-factor",
        "--init-from", "--keep", "--label-mode", "--language-model", "--latent-std", "--latents", "--limit",
        "--log-every", "--lora-alpha", "--lora-on", "--lora-only", "--lora-rank", "--lora-targets", "--lr",
        "--lr-cross-attention", "--lr-language", "--lr-perceiver", "--lr-vision", "--max-steps", "--max-tokens",
        "--no-resume", "--on-error", "--out", "--perceiver-depth", "--perceiver-width", "--precision", "--preset",
        "--profile", "--quantize-language", "--recipe", "--replay", "--resume", "--save-every", "--schedule", "--seed",
        "--shard-frozen", "--shards", "--stochastic-rounding", "--template", "--tensorboard", "--train-language",
        "--train-vision", "--vision-cache", "--vision-cache-gb", "--vision-model", "--wandb", "--warmup",
        "--weight-decay", "--where", "--workers",
    ]  # fmt: skip
    assert options(generate) == [
        "--beams", "--checkpoint", "--context-answer", "--context-image", "--context-prompt", "--device", "--frames",
        "--image", "--json", "--language-model", "--max-new-tokens", "--prompt", "--seed", "--temperature", "--top-p",
        "--video", "--vision-model",
    ]  # fmt: skip
    assert options(evaluate) == [
        "--baselines", "--batch-size", "--beams", "--checkpoint", "--context", "--device", "--image-embedder",
        "--json", "--language-model", "--limit", "--max-new-tokens", "--out", "--seed", "--shards", "--shots",
        "--support", "--text-embedder", "--vision-model",
    ]  # fmt: skip
    assert options(chat) == [
        "--checkpoint", "--device", "--frames", "--language-model", "--max-new-tokens", "--seed", "--temperature",
        "--top-p", "--vision-model",
    ]  # fmt: skip
    assert options(serve) == [
        "--api-key", "--batch-size", "--checkpoint", "--context", "--device", "--host", "--language-model",
        "--max-body-mb", "--max-characters", "--max-new-tokens", "--max-pictures", "--max-pixels", "--model-name",
        "--port", "--queue", "--vision-model",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (train, ["--shards", "a", "--lr", "1e-5", "--lr", "1e-4"]),
        (train, ["--shards", "a", "--resume", "--no-resume"]),
        (generate, ["--checkpoint", "run", "--prompt", "q", "--video", "a", "--video=b"]),
        (evaluate, ["--checkpoint", "run", "--shards", "a", "--shots", "0", "--shots", "1"]),
        (chat, ["--checkpoint", "run", "--checkpoint", "run"]),
        (mimicit, ["build", "--src", "a", "--src", "b", "--out", "c"]),
        (mimicit, ["inspect", "--json", "--json", "a"]),
    ],
)
def test_an_option_given_twice_is_refused(command: click.Command, arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2 and re.search(r"--\S+ is given twice", result.output)


def test_an_option_that_may_repeat_may(tmp_path: Path) -> None:
    asked = ["--checkpoint", str(tmp_path), "--prompt", "q"]
    examples = ["--context-prompt", "a", "--context-prompt", "b", "--image", "a.png", "--image", "b.png"]
    assert "given twice" not in CliRunner().invoke(generate, [*asked, *examples]).output


@pytest.mark.parametrize(
    ("command", "arguments", "others"),
    [
        (train, ["--preset", "tiny"], []),
        (train, ["--preset", "tiny", "--eval-shards", "s3://bucket//held/out/"], ["s3://bucket//held/out/"]),
        (evaluate, ["--checkpoint", "run"], []),
    ],
)
def test_shards_may_be_a_url(
    command: click.Command, arguments: list[str], others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def load(shards: object, **_: object) -> None:
        asked.append(shards)
        if len(asked) > len(others):
            raise UsageError("enough")

    monkeypatch.setattr("otter_train.data.shards.load", load)  # first: importing it later would keep the other patch
    monkeypatch.setattr("mimicit.loading.load", load)
    CliRunner().invoke(command, [*arguments, "--shards", "http://host/shards/"])
    assert asked == ["http://host/shards/", *others]
