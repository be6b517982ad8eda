"""The training loop: steps, checkpoints, resume, and what is said about them.

A step is a pure function of (weights, optimiser state, step number): its samples are positions
``[step * G, (step + 1) * G)`` of the loader's order, its learning rate comes from `rate_factor`. So a run that was
interrupted and resumed computes, on a CPU bit for bit, what an uninterrupted run does. Nothing waits for the device
between two lines of the log.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import AdamW
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError, UsageError
from mimicit.prompt import render
from otter_train.assembly import assemble_model, load_trained, trained_weights
from otter_train.checkpoint import Checkpoint, latest_checkpoint, load_optimizer_state, load_weights, save_checkpoint
from otter_train.config import RunConfig, RunOptions, difference
from otter_train.data import Batch, OrderedSamples, batches, micro_batches
from otter_train.distributed import World, join_world, pick_device
from otter_train.encoding import Cut, PromptEncoder
from otter_train.metrics import Console, Row, Table, draw_loss, progress_line
from otter_train.model import Otter, trainable_count
from otter_train.optimizer import make_optimizer, rate_factor
from otter_train.provenance import describe, generator_states, restore_generators
from otter_train.step import StepResult, take_step
from otter_train.tokenizer import load_tokenizer, train_tokenizer

__all__ = ["Outcome", "total_steps", "train"]

_TOKENIZER_SAMPLES = 20_000  # enough to find the frequent words; reading all of a large corpus would take hours


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended: after ``step`` of ``total`` steps, with its last checkpoint and the lines of its log."""

    step: int
    total: int
    checkpoint: Path
    rows: tuple[Row, ...]

    @property
    def finished(self) -> bool:
        """False where it was asked to stop before the end."""
        return self.step >= self.total


def train(
    config: RunConfig,
    samples: OrderedSamples,
    run: Path,
    *,
    options: RunOptions = RunOptions(),
    console: Console | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the end, or until ``should_stop`` (asked after every step), and leave a checkpoint in ``run``.

    Goes on from the last checkpoint of ``run``. `UsageError` where that belongs to another configuration or other
    shards, and where ``options.resume`` is off and there is one; `TrainError` where the loss is no number any more.
    """
    ...


def total_steps(config: RunConfig, sample_count: int) -> int:
    """Steps of a whole run over ``sample_count`` samples; the last one may be a part of a batch."""
    steps = math.ceil(config.epochs * sample_count / config.batch_size)
    return min(steps, config.max_steps) if config.max_steps else steps
