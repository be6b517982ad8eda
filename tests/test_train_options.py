"""The options of the training programs; a change here is labelled CLI in the changelog."""

from __future__ import annotations

import click

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
        "--config", "--context-order", "--cross-attention-every", "--cross-attention-gate", "--device", "--embeddings",
        "--epochs", "--eval-every", "--eval-limit", "--eval-shards", "--guard", "--guard-factor", "--init-from",
        "--keep", "--label-mode", "--language-model", "--latent-std", "--latents", "--log-every", "--lr", "--max-steps",
        "--max-tokens", "--no-resume", "--out", "--perceiver-depth", "--perceiver-width", "--precision", "--preset",
        "--profile", "--replay", "--resume", "--save-every", "--schedule", "--seed", "--shard-frozen", "--shards",
        "--stochastic-rounding", "--template", "--tensorboard", "--train-language", "--vision-cache",
        "--vision-cache-gb", "--vision-model", "--wandb", "--warmup", "--weight-decay", "--workers",
    ]  # fmt: skip
    assert options(generate) == [
        "--beams", "--checkpoint", "--context-answer", "--context-image", "--context-prompt", "--device", "--frames",
        "--image", "--json", "--language-model", "--max-new-tokens", "--prompt", "--seed", "--temperature", "--top-p",
        "--video", "--vision-model",
    ]  # fmt: skip
    assert options(evaluate) == [
        "--baselines", "--batch-size", "--checkpoint", "--device", "--json", "--language-model", "--limit",
        "--max-new-tokens", "--out", "--seed", "--shards", "--shots", "--vision-model",
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
