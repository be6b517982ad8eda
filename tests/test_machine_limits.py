"""What is odd about the machine, its settings or the place of the input: one line that says so, or no difference."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mimicit.errors import BuildError, UsageError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.mixture import read_mixture
from mimicit.shards.tar import END_OF_ARCHIVE
from mimicit.sources.files.paths import ReadableFolders
from mimicit.sources.files.root import Root
from tests.factories.bombs import put_sound_record
from tests.factories.engines import InProcess


def build(
    root: Path,
    *options: str,
    out: str | bytes = "out",
    environment: Mapping[str, str] | None = None,
    begin: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mimicit", "build", "--src", "raw", "--context", "none", *options, "--out", out]
    return subprocess.run(command, cwd=root, env=environment, preexec_fn=begin, capture_output=True, text=True)


def rows(root: Path) -> dict[str, tuple[int, int, dict[str, int]]]:
    sources = json.loads((root / "out" / "manifest.json").read_text())["sources"]
    return {source["name"]: (source["in"], source["out"], source["rejected"]) for source in sources}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put_sound_record(tmp_path / "raw")
    return tmp_path


def test_a_long_name_of_the_folder_for_temporary_files_makes_no_difference(root: Path) -> None:
    long = root / ("t" * (136 - len(str(root)))) if len(str(root)) < 100 else root / ("t" * 36)
    long.mkdir()
    done = build(root, environment={**os.environ, "TMPDIR": str(long)})
    assert done.returncode == 0, done.stderr
    assert rows(root) == {"sound": (1, 1, {})}


def test_no_environment_at_all_makes_no_difference(root: Path) -> None:
    done = build(root, environment={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr


def test_too_few_addresses_are_named_before_any_work(root: Path) -> None:
    done = build(root, begin=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)))
    assert done.returncode == 2 and "ulimit -v" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (root / "out" / "manifest.json").exists()


def test_an_output_folder_that_is_not_utf_8_is_refused_by_name(root: Path) -> None:
    done = build(root, out=b"out\xff4")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("mimicit: ") and "\\xff4: is not UTF-8" in done.stderr


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "{a = " * 50_000])
def test_deeply_nested_options_are_no_toml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mimicit.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"mimicit\.toml"):
        read_mixture(path)


def test_folders_without_end_are_passed_over_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("here")
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1_000):
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(os.open("far.txt", os.O_WRONLY | os.O_CREAT, dir_fd=place))
    os.close(place)
    skipped: list[tuple[str, str]] = []
    root = Root(tmp_path)
    assert [path for path, _ in root.walk(lambda path, why: skipped.append((path, why)))] == ["a.txt"]
    ((path, why),) = skipped
    assert path.startswith("d/d/") and "folders deep" in why
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # too deep for shutil


def test_a_file_that_may_not_be_read_ends_the_build_by_name_or_costs_its_own_records(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "raw" / "sound" / "b.txt").write_text("a caption")
    shutil.copy(root / "raw" / "sound" / "a.jpg", root / "raw" / "sound" / "b.jpg")
    opened = ReadableFolders.open

    def refused(self: ReadableFolders, path: str, *arguments: Any) -> int:
        if path == "sound/b.jpg":  # as where it is another user's; root, as whom tests may run, may read everything
            raise PermissionError(13, "Permission denied")
        return opened(self, path, *arguments)

    monkeypatch.setattr(ReadableFolders, "open", refused)
    src, out, config = root / "raw", root / "out", BuildConfig(context="none")
    with pytest.raises(BuildError, match=r"sound/b\.jpg.*--keep-going"):
        build_shards(src, out, config, engine=InProcess())
    build_shards(src, out, config, engine=InProcess(), keep_going=True)
    assert rows(root) == {"sound": (2, 1, {"missing_file": 1})}


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "empty.tar"]])
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "empty.tar").write_bytes(END_OF_ARCHIVE)
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mimicit", *arguments]
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "mimicit: cannot write what it prints: No space left on device\n")
