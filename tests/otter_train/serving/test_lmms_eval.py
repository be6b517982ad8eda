"""lmms-eval asks the endpoint, in the way and with the files that the documentation shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")
pytest.importorskip("uvicorn", reason="comes with the extra 'serve'")

import mimicit
from otter_train.model import PRESETS
from otter_train.serving.limits import Limits
from tests.factories import pages
from tests.factories.serving import serving, trained_model
from tests.factories.train import MINUTE_MODEL, Colours

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


def installed(folder: Path) -> str:
    """A Python with lmms-eval on top of the packages of this one, or the one that the environment names."""
    if given := os.environ.get("LMMS_EVAL_PYTHON"):
        return given
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    python = str(folder / "bin" / "python")
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "lmms-eval"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"lmms-eval cannot be installed here: {done.stderr[-300:]}")
    return python


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_task_with_pictures_and_earlier_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = installed(tmp_path / "lmms")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", MINUTE_MODEL)
    trained = trained_model(tmp_path / "run", max_steps=150, batch_size=8)
    samples = Colours()
    monkeypatch.setattr(mimicit, "load", lambda folder: [samples.stored(row) for row in range(len(samples))])
    section = [block for block in pages.blocks(PAGE.read_text()) if block.language in ("python", "text", "bash")]
    for block in section:
        if block.title:
            Path(block.title).parent.mkdir(exist_ok=True)
            Path(block.title).write_text(block.text)
    (rows,) = (block for block in section if "questions.parquet" in block.text and not block.title)
    scope: dict[str, Any] = {}
    exec(compile(rows.text, "serving.md", "exec"), scope)
    (command,) = (block.text for block in section if "lmms_eval" in block.text)
    with serving(trained, Limits(tokens=16, context=300)) as address:
        command = command.replace("lmms/bin/python", python).replace("http://127.0.0.1:8000", address)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            ["bash", "-c", command.replace("model=run", "model=otter")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)  # noqa: T201 - the table of lmms-eval, for whoever runs this with -s
    (results,) = Path("results").rglob("*_results.json")
    assert json.loads(results.read_text())["results"]["ours"]["exact_match,none"] == 1.0
    (said,) = Path("results").rglob("*_samples_ours.jsonl")
    assert len(said.read_text().splitlines()) == len(samples)
