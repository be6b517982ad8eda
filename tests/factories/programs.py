"""The programs of the project, and command lines that are carried out in this process where they run one of these."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mimicit.cli import main as mimicit
from tests.factories.engines import InProcess
from tests.factories.pages import words_of

_ROOT = Path(__file__).parents[2]
PROGRAMS = ("generate", "evaluate", "chat", "serve", "convert")
BRIEF = {  # what makes a command short enough for a test; the page shows it without
    "otter_train": ["--max-steps", "2", "--batch-size", "3", "--max-tokens", "128", "--device", "cpu"],
    "otter_train.generate": ["--max-new-tokens", "2", "--device", "cpu"],
    "otter_train.evaluate": ["--max-new-tokens", "2", "--limit", "2", "--device", "cpu"],
}


def programs() -> dict[str, click.Command]:
    """Every program of the project by the name after ``python -m``."""
    found: dict[str, click.Command] = {"mimicit": mimicit}
    found["otter_train"] = importlib.import_module("otter_train.__main__").main
    for name in PROGRAMS:
        found[f"otter_train.{name}"] = importlib.import_module(f"otter_train.{name}").main
    return found


def carry_out(command: str) -> tuple[int, str]:
    """Exit code and output of a command line; the project's own programs, and their tasks, run in this process."""
    words = words_of(command)
    name = words[2] if words[:2] == ["python", "-m"] else words[0]
    if name not in (known := programs()):
        scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": scripts, "PYTHONPATH": str(_ROOT)}
        result = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
        return result.returncode, result.stdout + result.stderr
    given = words[words.index(name) + 1 :]
    brief = BRIEF.get(name, [])
    pairs = zip(brief[::2], brief[1::2], strict=True)
    extra = [] if "--help" in given else [word for pair in pairs if pair[0] not in given for word in pair]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimicit.pipeline.engines.local.LocalEngine", lambda workers: InProcess())
        done = CliRunner().invoke(known[name], [*given, *extra], catch_exceptions=False)
    return done.exit_code, done.output
