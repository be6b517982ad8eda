"""SIGKILL at every fsync and rename, and at random moments: never a partial file under a final name, and the rerun
ends with the bytes of a build that nobody killed."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mimicit.pipeline import BuildConfig, build_shards
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.killing import check_every_call


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    make.add_manifest(folder, pictures=40, questions=2)
    make.add_llava(folder, talks=2)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make.make_raw(tmp_path_factory.mktemp("raw"))
    make.add_manifest(folder, "more", pictures=150, questions=2)
    return folder


def kill_at_calls(raw: Path, folder: Path, step: int, layout: str) -> int:
    config = BuildConfig(shard_bytes=32 * 1024, shots=1, dedupe=layout == "dedupe")
    return check_every_call(lambda out: build_shards(raw, out, config, engine=InProcess()), folder, step)


def test_killed_at_some_fsyncs_and_renames(small: Path, tmp_path: Path) -> None:
    assert kill_at_calls(small, tmp_path, 41, "inline") >= 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("layout", ["inline", "dedupe"])
def test_killed_at_every_fsync_and_rename(small: Path, tmp_path: Path, layout: str) -> None:
    survived = kill_at_calls(small, tmp_path, 1, layout)
    print(f"{layout}: killed before each of {survived} calls")  # noqa: T201
    assert survived >= 30


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("options", "kills"),
    [
        (["--shard-samples", "20"], 50),
        (["--shard-samples", "20", "--dedupe"], 50),
        (["--shard-samples", "20", "--engine", "ray"], 50),
    ],
    ids=["local", "dedupe", "ray"],
)
def test_killed_at_random_moments(raw: Path, tmp_path: Path, options: list[str], kills: int) -> None:
    """Every build is killed once, then finished; half of the moments lie after its first shard."""
    if "ray" in options:
        pytest.importorskip("ray", reason="comes with the extra 'ray'")
    whole = tmp_path / "whole"
    started = time.monotonic()
    finish(raw, whole, options)
    seconds = time.monotonic() - started
    truth = make.hashes(whole)
    rng = random.Random(8)
    stages = []
    for kill in range(kills):
        out = tmp_path / f"killed-{kill}"
        process = start(raw, out, options)
        if kill % 2:  # while it packs, whatever came before took
            while process.poll() is None and not any(out.glob("shard-*.tar")):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.1) * seconds)
        else:
            time.sleep(rng.uniform(0.05, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        final = {name: digest for name, digest in finals(out).items() if truth.get(name) != digest}
        assert not final, f"kill {kill}: {sorted(final)} are not what they should be"
        stages.append(len(finals(out)))
        finish(raw, out, options)
        assert make.hashes(out) == truth, f"kill {kill}: the rerun ended with other bytes"
        shutil.rmtree(out)
    print(f"{' '.join(options)}: {kills} kills; final files at each: {sorted(stages)}")  # noqa: T201


def finals(out: Path) -> dict[str, str]:
    """The checksums of the files that have their final names; the workers of the killed build may still be dying."""
    names = [path.name for path in out.glob("*") if path.is_file() and not path.name.endswith(".tmp")]
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}


def command(raw: Path, out: Path, options: list[str]) -> list[str]:
    where = ["--src", str(raw), "--out", str(out), "--workers", "2"]
    return [sys.executable, "-m", "mimicit", "build", *where, *options]


def start(raw: Path, out: Path, options: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(raw, out, options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(raw: Path, out: Path, options: list[str]) -> None:
    done = subprocess.run(command(raw, out, options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
