"""The options of the three training programs; a change here is labelled CLI in the changelog."""

from __future__ import annotations

import click

from otter_train.__main__ import main as train
from otter_train.evaluate import main as evaluate
from otter_train.generate import main as generate


def options(command: click.Command) -> list[str]:
    return sorted(name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts))


def test_options_are_pinned() -> None:
    assert options(train) == [
        "--accumulate", "--batch-size", "--clip", "--device", "--embeddings", "--epochs", "--label-mode",
        "--language-model", "--log-every", "--lr", "--max-steps", "--max-tokens", "--no-resume", "--out", "--precision",
        "--preset", "--resume", "--save-every", "--schedule", "--seed", "--shards", "--template", "--vision-model",
        "--warmup", "--weight-decay", "--workers",
    ]  # fmt: skip
    assert options(generate) == [
        "--checkpoint", "--context-answer", "--context-image", "--context-prompt", "--device", "--frames", "--image",
        "--json", "--language-model", "--max-new-tokens", "--prompt", "--video", "--vision-model",
    ]  # fmt: skip
    assert options(evaluate) == [
        "--baselines", "--batch-size", "--checkpoint", "--device", "--json", "--language-model", "--limit",
        "--max-new-tokens", "--shards", "--shots", "--vision-model",
    ]  # fmt: skip
