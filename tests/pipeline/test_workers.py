"""Workers that are killed, and what a killed build leaves: no sound picture is lost, and the bytes are the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mimicit.errors import BuildError
from mimicit.loading import load
from mimicit.media import MediaOptions
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.progress import Silent
from tests.factories import hostile
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.processes import descendants

_KILLS = 6
CONFIG = BuildConfig(shard_samples=8, media=MediaOptions(size=64))


@contextmanager
def random_kills(rng: random.Random, longest_s: float) -> Iterator[list[int]]:
    """While the block runs, kill any of the workers at up to six random moments; the list names them."""
    killed: list[int] = []
    done = threading.Event()

    def hunt() -> None:
        while len(killed) < _KILLS and not done.wait(rng.uniform(0.02, longest_s)):
            ours = descendants(os.getpid())
            workers = [pid for pid, parent in ours.items() if ours.get(parent) == os.getpid()]
            if workers:
                victim = rng.choice(workers)
                with suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)

    thread = threading.Thread(target=hunt, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()


def check_rounds(tmp_path: Path, pictures: int, rounds: int, longest_s: float) -> int:
    """Build so many times under fire; returns how many workers were killed."""
    raw = tmp_path / "raw"
    make.add_manifest(raw, pictures=pictures, questions=1)
    make.add_llava(raw)
    build_shards(raw, tmp_path / "whole", CONFIG, engine=InProcess())
    truth = make.hashes(tmp_path / "whole")
    kills = 0
    for number in range(rounds):
        out = tmp_path / f"out-{number}"
        with random_kills(random.Random(number), longest_s) as killed:
            build_shards(raw, out, CONFIG, engine=LocalEngine(2))
        kills += len(killed)
        assert make.hashes(out) == truth, f"round {number}: {len(killed)} kills changed bytes"
    return kills


def test_random_kills_of_workers_change_nothing(tmp_path: Path) -> None:
    assert check_rounds(tmp_path, pictures=260, rounds=1, longest_s=0.2) >= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_rounds_of_random_kills(tmp_path: Path) -> None:
    kills = check_rounds(tmp_path, pictures=300, rounds=50, longest_s=0.3)
    print(f"{kills} workers killed in 50 builds")  # noqa: T201
    assert kills >= 50


def test_only_what_ends_its_process_alone_is_rejected_and_it_is_tried_again(tmp_path: Path) -> None:
    """The decoder never returns to Python, so its worker is ended; what stands around it is built all the same."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw, pictures=4, questions=1)
    (raw / "own" / "images" / "2.jpg").write_bytes(hostile.png_of_many_chunks(600_000))
    low = BuildConfig(media=MediaOptions(max_seconds=1))
    manifest = build_shards(raw, out, low, engine=LocalEngine(1)).manifest
    assert manifest["sources"][0]["rejected"] == {"timeout": 1}
    (detail,) = pq.read_table(out / "rejects.parquet").column("detail").to_pylist()
    assert "more than 1 s of CPU time and what its size explains; see --max-seconds" in detail
    assert {sample.id for sample in load(out)} == {"own-0-0", "own-1-0", "own-3-0"}
    assert build_shards(raw, out, low, engine=LocalEngine(1)).was_finished
    high = BuildConfig(media=MediaOptions(max_seconds=1_000))
    again = build_shards(raw, out, high, engine=LocalEngine(1), retry_rejects=True)
    assert again.retried is not None and again.retried.fixed == 1
    assert again.manifest["sources"][0]["rejected"] == {}


class Stop(Silent):
    """Raises when ``stage`` begins, as Ctrl-C does."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def update(self, stage: str, done: int, total: int | None) -> None:
        if stage == self._stage:
            raise KeyboardInterrupt


def stopped(raw: Path, out: Path, stage: str) -> list[Path]:
    """A build that was interrupted there; its blobs."""
    with pytest.raises(KeyboardInterrupt):
        build_shards(raw, out, CONFIG, engine=InProcess(), progress=Stop(stage))
    return sorted((out / ".mimicit-work" / "media").glob("*.bin"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A raw folder of twenty pictures, and the files that it is built into."""
    folder = tmp_path_factory.mktemp("twenty")
    make.add_manifest(folder / "raw", pictures=20, questions=1)
    build_shards(folder / "raw", folder / "whole", CONFIG, engine=InProcess())
    return folder / "raw", make.hashes(folder / "whole")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("fault", ["cut", "missing", "flipped"])
def test_a_damaged_blob_of_a_killed_build_is_made_again(
    twenty: tuple[Path, dict[str, str]], tmp_path: Path, fault: str, overwrite: bool
) -> None:
    (raw, whole), out = twenty, tmp_path / "out"
    blob = stopped(raw, out, "pack")[0]
    if fault == "cut":
        os.truncate(blob, blob.stat().st_size // 2)
    elif fault == "missing":
        blob.unlink()
    else:
        flip(blob)
    build_shards(raw, out, CONFIG, engine=InProcess(), overwrite=overwrite)
    assert make.hashes(out) == whole


def test_a_bit_that_flips_while_a_build_runs_reaches_no_shard(
    twenty: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    (raw, whole), out = twenty, tmp_path / "out"

    class Flip(Silent):
        def update(self, stage: str, done: int, total: int | None) -> None:
            if stage == "pack" and done == 0:
                flip(next((out / ".mimicit-work" / "media").glob("*.bin")))

    with pytest.raises(BuildError, match=r"\.bin: damaged"):
        build_shards(raw, out, CONFIG, engine=InProcess(), progress=Flip())
    build_shards(raw, out, CONFIG, engine=InProcess())
    assert make.hashes(out) == whole


@pytest.mark.parametrize("content", [b"", b'{"config": ', b"[]", b'{"config": 1, "input": "", "mimicit_version": ""}'])
def test_a_damaged_state_is_named(tmp_path: Path, content: bytes) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw, pictures=3, questions=1)
    stopped(raw, out, "encode")
    (out / ".mimicit-work" / "build.json").write_bytes(content)
    with pytest.raises(BuildError, match=r"build\.json: is damaged .*--overwrite"):
        build_shards(raw, out, CONFIG, engine=InProcess())
    build_shards(raw, out, CONFIG, engine=InProcess(), overwrite=True)


def test_what_an_earlier_version_left_is_not_used(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw, pictures=3, questions=1)
    stopped(raw, out, "pack")
    (out / ".mimicit-work" / "catalog.sqlite").touch()
    (out / ".mimicit-work" / "samples" / "00000000.arrow").write_bytes(b"something else")
    build_shards(raw, out, CONFIG, engine=InProcess())
    assert (out / "manifest.json").exists()


@pytest.mark.parametrize("signals", [1, 2])
def test_an_interrupted_build_ends_soon(tmp_path: Path, signals: int) -> None:
    """A worker that decodes for minutes is not waited for."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw, pictures=8, questions=1)
    for number in range(1, 8):
        (raw / "own" / "images" / f"{number}.jpg").write_bytes(hostile.png_of_many_chunks(1_000_000 + number))
    command = [sys.executable, "-m", "mimicit", "build", "--src", str(raw), "--out", str(out), "--max-seconds", "600"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )
    while not list((out / ".mimicit-work" / "media").glob("*.at")):
        assert process.poll() is None
        time.sleep(0.05)
    workers = descendants(process.pid)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)  # what it decodes would take minutes
    assert process.returncode != 0
    assert signals == 2 or "interrupted" in told
    assert "Traceback" not in told
    assert all(not Path(f"/proc/{pid}").exists() or _is_ending(pid) for pid in workers)


def _is_ending(pid: int) -> bool:
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.1)
    return False


def test_rejects_of_a_folder_are_what_they_were(tmp_path: Path) -> None:
    """Without rejects that another attempt may do without, there is nothing to retry."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw, pictures=3, questions=1)
    (raw / "own" / "images" / "1.jpg").write_bytes(b"no picture")
    build_shards(raw, out, CONFIG, engine=InProcess())
    assert build_shards(raw, out, CONFIG, engine=InProcess(), retry_rejects=True).was_finished
    assert pq.read_table(out / "rejects.parquet").column("reason").to_pylist()[:1] == ["unsupported_media"]
