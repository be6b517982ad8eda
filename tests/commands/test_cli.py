"""The command line: frozen options, exit codes, one line per failure, no torch."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image

from mimicit.cli import main
from tests.factories import raw as make
from tests.factories.commands import mimicit


def started(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``mimicit`` in a process of its own."""
    command = [sys.executable, "-m", "mimicit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``mimicit build --src raw/ --out shards/`` has run."""
    folder = tmp_path_factory.mktemp("place")
    make.make_raw(folder / "raw")
    result = started("build", "--src", "raw/", "--out", "shards/", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "own             manifest  18   18       0         0" in result.stdout
    assert result.stdout.splitlines()[-1] == "next: mimicit inspect shards"
    return folder


def test_options_are_pinned() -> None:
    """A change here is labelled CLI in the changelog."""
    options = {
        name: sorted(option for parameter in command.params for option in parameter.opts)
        for name, command in main.commands.items()
        if isinstance(command, click.Command)
    }
    assert options == {
        "annotate": [
            "--allow-root", "--answers", "--base-url", "--batch-in", "--batch-out", "--budget-tokens", "--budget-usd",
            "--concurrency", "--dry-run", "--follow-links", "--format", "--json", "--judge", "--judge-least",
            "--key-env", "--limit", "--model", "--out", "--price-in", "--price-out", "--recipe", "--report",
            "--requests-per-minute", "--retries", "--src", "--timeout", "--tokens-per-minute",
        ],
        "build": [
            "--allow-root", "--allow-same-answer", "--allow-same-media", "--config", "--context", "--dedupe",
            "--embedding-cache", "--engine", "--follow-links", "--format", "--frames", "--image-embedder",
            "--image-format", "--json", "--keep-going", "--license", "--limit", "--max-aspect", "--max-pixels",
            "--max-seconds", "--media-root", "--min-score", "--min-side", "--option", "--out", "--overwrite",
            "--quality", "--ray-address", "--retry-rejects", "--seed", "--shard-samples", "--shard-size", "--shots",
            "--similar-text", "--size", "--src", "--strict", "--task-count", "--task-index", "--text-embedder",
            "--video-reader", "--work", "--workers",
        ],
        "compare": ["--json", "--limit", "a", "b"],
        "export": ["--as", "--json", "--out", "--private", "--to", "path"],
        "index": ["--json", "path"],
        "inspect": ["--html", "--json", "--pictures", "--png", "--sample", "path"],
        "publish": ["--embedding-cache", "--json", "--workers", "out"],
        "rejects": ["--by", "--json", "--limit", "--reason", "--source", "path"],
        "verify": ["--json", "path"],
        "view": ["--host", "--port", "path"],
    }  # fmt: skip


def test_a_second_build_says_there_is_nothing_to_do(place: Path) -> None:
    result = mimicit("build", "--src", "raw/", "--out", "shards/", cwd=place)
    assert result.returncode == 0
    assert "already finished" in result.stdout


def test_inspect_a_shard_and_a_folder(place: Path) -> None:
    text = mimicit("inspect", "shards/shard-000.tar", cwd=place)
    assert text.returncode == 0
    for part in ("41 samples", "conversation", "same_media", "video", "<image>User:"):
        assert part in text.stdout, part
    value = json.loads(mimicit("inspect", "shards", "--json", cwd=place).stdout)
    assert value["samples"] == 41
    assert value["sources"] == {"own": 18, "llava_instruct": 13, "la": 5, "photos": 5}
    assert sum(value["text_lengths"].values()) == value["triplets"]


def test_inspect_one_sample_writes_its_pictures(place: Path) -> None:
    result = mimicit("inspect", "shards", "--sample", "photos/c.mp4", "--png", "look.png", cwd=place)
    assert result.returncode == 0
    assert "video 64x48, 8 frames" in result.stdout
    with Image.open(place / "look.png") as sheet:
        assert sheet.width >= 8 * 64
    value = json.loads(
        mimicit("inspect", "shards", "--sample", "photos/c.mp4", "--json", "--png", "look.png", cwd=place).stdout
    )
    assert value["prompt"].count("<image>") == len(value["media"])


def test_verify_finds_a_flipped_byte(place: Path, tmp_path: Path) -> None:
    assert mimicit("verify", "shards", cwd=place).returncode == 0
    damaged = tmp_path / "shards"
    shutil.copytree(place / "shards", damaged)
    data = bytearray((damaged / "shard-000.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / "shard-000.tar").write_bytes(data)
    result = mimicit("verify", damaged)
    assert result.returncode == 1
    assert "shard-000.tar: its sha256 is not the manifest's" in result.stdout
    value = json.loads(mimicit("verify", damaged, "--json").stdout)
    assert value["findings"][0]["file"] == "shard-000.tar"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["build", "--out", "x"], 2, "--src"),
        (["build", "--src", "raw", "--out", "x", "--context", "nearest"], 2, "no strategy 'nearest'"),
        (["build", "--src", "raw", "--out", "x", "--shots", "-1"], 2, "--shots -1: must be at least 0"),
        (["build", "--src", "raw", "--out", "x", "--format", "nope"], 2, "no format 'nope'"),
        (["build", "--src", "nowhere", "--out", "x"], 1, "nowhere: no such folder"),
        (["inspect", "nowhere.tar"], 1, "nowhere.tar: no such file"),
        (["inspect", "raw"], 1, "no manifest.json"),
        (["inspect", "shards", "--sample", "nobody"], 1, "no sample has the key or id 'nobody'"),
        (["verify", "nowhere"], 1, "nowhere"),
        (["verify", "raw/own/manifest.jsonl"], 1, "not a whole tar file"),
    ],
)
def test_wrong_use_is_one_line(place: Path, arguments: list[str], code: int, message: str) -> None:
    result = mimicit(*arguments, cwd=place)
    assert result.returncode == code
    assert message in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_no_command_imports_torch(place: Path) -> None:
    code = (
        "import sys; from mimicit.cli import main\n"
        "for command in ('build --src raw --out other', 'inspect other', 'verify other'):\n"
        "    assert not main(command.split(), standalone_mode=False), command\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=place, capture_output=True)


def test_wrong_use_of_a_program_that_is_started_is_one_line(place: Path) -> None:
    result = started("inspect", "nowhere.tar", cwd=place)
    assert (result.returncode, result.stderr) == (1, "mimicit: nowhere.tar: no such file or folder\n")


def test_help_is_light_and_clean(place: Path) -> None:
    assert "\\b" not in mimicit("build", "--help").stdout
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert started("--help", cwd=place).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"mimicit --help: {seconds:.2f} s of CPU")  # noqa: T201 - a figure to read, not a condition
