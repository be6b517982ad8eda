"""A disk that fills up ends the build with one line that names the file; with space, the same command goes on."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import disks
from tests.factories import raw as make
from tests.factories.commands import Done, mimicit

KIB = 1024


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    make.add_manifest(folder, pictures=150, questions=2)
    return folder


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    done = build(raw, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 KiB at first."""
    with disks.small_disk(tmp_path / "disk", "64k") as disk:
        yield disk


def build(raw: Path, out: Path, largest: int = resource.RLIM_INFINITY) -> Done:
    """A build that may write no file of more than ``largest`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        return mimicit("build", "--src", raw, "--out", out, "--shard-samples", "100")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_says_what_to_do(done: Done, out: Path) -> None:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mimicit: ") and "the same command" in last
    assert str(out) in last, last


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_build_goes_on_with_space(raw: Path, whole: Path, small_disk: Path) -> None:
    """The disk grows by little steps, so that every stage has its turn at meeting the end of it."""
    out = small_disk / "out"
    failures = []
    for size in (64, 200, 320, 480, 640, 900, 1200, 1600, 2400, 4000, 8000):
        subprocess.run(["mount", "-o", f"remount,size={size}k", small_disk], check=True)
        done = build(raw, out)
        if done.returncode == 0:
            break
        assert_says_what_to_do(done, out)
        failures.append(done.stderr.strip().splitlines()[-1])
        truth = make.hashes(whole)
        for name, digest in make.hashes_without_work(out).items():
            assert name.endswith(".tmp") or digest == truth[name], name
        assert not (out / "manifest.json").exists()
    print("\n".join(failures))  # noqa: T201
    assert len(failures) >= 3
    assert make.hashes(out) == make.hashes(whole)


@pytest.mark.parametrize("largest", [20 * KIB, 100 * KIB, 250 * KIB])
def test_a_file_that_cannot_grow_is_named(raw: Path, whole: Path, tmp_path: Path, largest: int) -> None:
    out = tmp_path / "out"
    done = build(raw, out, largest)
    print(done.stderr.strip().splitlines()[-1])  # noqa: T201
    assert_says_what_to_do(done, out)
    assert build(raw, out).returncode == 0
    assert make.hashes(out) == make.hashes(whole)
