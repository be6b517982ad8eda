"""What a run writes down about itself."""

from __future__ import annotations

import math
from typing import Any

import torch

from otter_train.checkpoint.meta import describe, generator_states
from otter_train.config.run_config import resolve
from otter_train.reporting.metrics import Row
from tests.factories.train import MINUTE_MODEL, TOKENIZER


def meta(step: int) -> dict[str, Any]:
    return {
        **describe(resolve("tiny"), MINUTE_MODEL, TOKENIZER),
        "step": step,
        "total_steps": 100,
        "samples_seen": step * 4,
        "loader": {"version": 1, "batches": step, "batch_size": 4},
        "guard": {"average_norm": 1.0, "seen": 2.0, "in_a_row": 0.0},
        "rng": [generator_states(torch.device("cpu"))],
    }


def row(step: int) -> Row:
    return Row(
        step=step,
        samples=step * 4,
        loss=1 / (step + 1) + 1e-17,
        lr=1e-5,
        gradient_norm=math.pi,
        left_out=0,
        samples_per_s=12.5,
        tokens_per_s=9100.0,
        mfu=0.412,
        data_wait=0.01,
        peak_memory_bytes=1 << 40,
        elapsed_s=step * 0.1,
    )
