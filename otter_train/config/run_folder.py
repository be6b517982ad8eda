"""The files in the folder of a run, beside its checkpoints."""

from __future__ import annotations

from typing import Final

__all__ = ["CONFIG_NAME", "EVAL_NAME", "GATES_NAME", "GUARD_NAME", "LEFT_OUT_NAME", "METRICS_NAME", "SOURCES_NAME"]

CONFIG_NAME: Final = "config.json"
"""All its options."""
METRICS_NAME: Final = "metrics.csv"
EVAL_NAME: Final = "eval.csv"
SOURCES_NAME: Final = "sources.csv"
GATES_NAME: Final = "gates.csv"
LEFT_OUT_NAME: Final = "left_out.txt"
"""Samples that no step was made of, with the reason of each."""
GUARD_NAME: Final = "guard.jsonl"
"""Steps that were left out, or would have been."""
