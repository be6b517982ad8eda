"""Every command of the README runs as written, in order, in one folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mimicit.pipeline import BuildConfig, build_shards
from tests.factories import pages
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.programs import carry_out

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_commands_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("torch", reason="comes with the extra 'train'")
    own = tmp_path / "raw"
    (own / "images").mkdir(parents=True)
    (own / "clips").mkdir()
    for number, name in enumerate(("cat", "a", "b")):
        (own / "images" / f"{name}.jpg").write_bytes(make.picture(number))
    make.clip(own / "clips" / "walk.mp4")
    (manifest,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    (own / "manifest.jsonl").write_text(manifest)
    monkeypatch.chdir(tmp_path)
    blocks = pages.blocks(TEXT)
    commands = [step.command for block in blocks if block.language == "console" for step in pages.steps(block.text)]
    assert len(commands) >= 8
    for command in commands:
        code, output = carry_out(command)
        assert code == 0, f"{command}\n{output}"
    scope: dict[str, Any] = {"__name__": "readme"}
    for block in blocks:
        if block.language == "python":
            exec(compile(block.text, "README.md: python block", "exec"), scope)
    assert "<image>User:" in capsys.readouterr().out


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
