"""A minute of each fuzzer; ``--inputs 20000`` is the long run."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mimicit.pipeline.engines.local import LocalEngine
from tests.factories.sources import put, put_lines
from tools import fuzz_pairs

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("shown", [[5, 6], [6, 5], [5, 5]])
def test_a_sample_with_the_picture_of_another_record_is_a_wrong_pair(tmp_path: Path, shown: list[int]) -> None:
    rows = []
    for said, number in zip((5, 6), shown, strict=True):
        put(tmp_path, f"raw/{number}.png", fuzz_pairs.picture(number))
        rows.append({"image": f"{number}.png", "instruction": f"Is it number {said}?", "answer": f"number {said}"})
    put_lines(tmp_path, "raw/rows.jsonl", rows)
    counts: Counter[str] = Counter()
    engine = LocalEngine(1)
    faults = fuzz_pairs.run_round(tmp_path, engine, counts)
    engine.close()
    wrong = [
        f"says [{said}] and shows [{number}]" for said, number in zip((5, 6), shown, strict=True) if said != number
    ]
    assert counts["samples"] == 2 and len(faults) == len(wrong)
    for fault, pair in zip(sorted(faults, key=lambda text: text.partition(" says ")[2]), wrong, strict=True):
        assert fault.startswith("wrong pair: ") and fault.endswith(pair)


def test_the_colours_of_a_picture_are_its_number_whatever_the_format() -> None:
    numbers = [0, 1, 215, 216, 46655, 12345]
    for format in ("PNG", "JPEG", "WEBP"):
        assert [fuzz_pairs.number_of(fuzz_pairs.picture(number, format)) for number in numbers] == numbers


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["fuzz_build", "fuzz_pairs"])
def test_a_minute_of_mutated_inputs(tmp_path: Path, tool: str) -> None:
    command = [sys.executable, "-m", f"tools.{tool}", "--seconds", "60", "--keep", str(tmp_path / "findings")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(result.stdout)  # noqa: T201 - the counts are worth reading
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 failed rounds" in result.stdout
