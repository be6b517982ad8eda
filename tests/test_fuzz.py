"""A minute of each fuzzer; ``--inputs 20000`` is the long run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["fuzz_build", "fuzz_pairs"])
def test_a_minute_of_mutated_inputs(tmp_path: Path, tool: str) -> None:
    command = [sys.executable, "-m", f"tools.{tool}", "--seconds", "60", "--keep", str(tmp_path / "findings")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(result.stdout)  # noqa: T201 - the counts are worth reading
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 failed rounds" in result.stdout
