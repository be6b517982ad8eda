"""Every command of the README runs as written, in order, in one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mimicit.pipeline import BuildConfig, build_shards
from tests.factories import raw as make
from tests.factories.engines import InProcess

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_commands_run_as_written(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="comes with the extra 'train'")
    own = tmp_path / "raw"
    (own / "images").mkdir(parents=True)
    (own / "clips").mkdir()
    for number, name in enumerate(("cat", "a", "b")):
        (own / "images" / f"{name}.jpg").write_bytes(make.picture(number))
    make.clip(own / "clips" / "walk.mp4")
    (manifest,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    (own / "manifest.jsonl").write_text(manifest)
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": scripts, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = commands()
    assert len(found) >= 8
    for command in found:
        words = shlex.split(command)
        if "otter_train" in words:
            words += ["--max-steps", "2", "--batch-size", "4"]  # the demo trains to the end
        result = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "<image>User:" in result.stdout


def test_the_table_that_is_shown_builds(tmp_path: Path) -> None:
    (table,) = re.findall(r"```csv\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "raw" / "images").mkdir(parents=True)
    for number, name in enumerate(("cat", "a")):
        (tmp_path / "raw" / "images" / f"{name}.jpg").write_bytes(make.picture(number))
    (tmp_path / "raw" / "table.csv").write_text(table)
    result = build_shards(tmp_path / "raw", tmp_path / "shards", BuildConfig(), engine=InProcess())
    totals = result.manifest["totals"]
    assert (totals["samples"], totals["rejects"]) == (2, 0)


def test_links_and_make_targets_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    targets = (ROOT / "Makefile").read_text()
    for name in re.findall(r"^make ([a-z-]+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{name}:", targets, re.MULTILINE), name
