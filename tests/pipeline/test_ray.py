"""``--engine ray``: the same bytes as on this machine's processes, whatever happens to the workers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mimicit.errors import BuildError, UsageError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine, WorkerDiedError
from mimicit.pipeline.engines.ray import RayEngine, _probe, _versions
from mimicit.progress import Silent
from tests.factories import raw as make
from tests.factories.processes import killing, ray_workers
from tests.factories.tasks import KILLED_IN_EACH, STAGES, Killing, Witness, die_if_odd, die_once, refuse, square

ray = pytest.importorskip("ray", reason="comes with the extra 'ray'")

CONFIG = BuildConfig(shard_bytes=32 * 1024)
# Ray closes some of its own files late.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster of two workers for the whole module: it takes ten seconds to start."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make.make_raw(tmp_path_factory.mktemp("raw"))
    make.add_manifest(folder, "more", pictures=300, questions=1)
    return folder


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    build_shards(raw, out, CONFIG, engine=LocalEngine(2))
    return out


def run(tmp_path: Path, function: Any, tasks: Any, **options: Any) -> dict[Any, Any]:
    engine = RayEngine(2, src=tmp_path, out=tmp_path)
    return dict(engine.run(function, tasks, label="count", progress=Silent(), **options))


def test_every_task_has_its_result_and_an_error_is_raised(tmp_path: Path) -> None:
    assert run(tmp_path, square, range(100)) == {number: number**2 for number in range(100)}
    with pytest.raises(ValueError, match="7 is refused"):
        run(tmp_path, refuse, [7])


def test_tasks_are_drawn_as_there_is_room(tmp_path: Path) -> None:
    drawn = itertools.count()
    results = RayEngine(2, src=tmp_path, out=tmp_path).run(square, drawn, label="count", progress=Silent())
    for _ in range(20):
        next(results)
    results.close()  # type: ignore[attr-defined]
    assert next(drawn) <= 20 + 2 * 4


def test_a_task_whose_worker_died_is_run_again(tmp_path: Path) -> None:
    markers = [tmp_path / str(number) for number in range(4)]
    assert run(tmp_path, die_once, markers) == {marker: marker.name for marker in markers}


def test_a_task_that_always_kills_is_given_up_by_name(tmp_path: Path) -> None:
    deaths: list[WorkerDiedError] = []

    def on_death(task: int, died: WorkerDiedError, times: int) -> int:
        deaths.append(died)
        return -task

    results = run(tmp_path, die_if_odd, range(4), on_death=on_death)
    assert results == {0: 0, 1: -1, 2: 2, 3: -3}
    assert [died.signal for died in deaths] == [9, 9]
    with pytest.raises(BuildError, match=r"count: .*killed by SIGKILL.*run the same command again"):
        run(tmp_path, die_if_odd, [1])


@pytest.mark.parametrize("dedupe", [False, True])
def test_a_build_on_ray_has_the_same_bytes(raw: Path, tmp_path: Path, dedupe: bool) -> None:
    config = replace(CONFIG, dedupe=dedupe)
    build_shards(raw, tmp_path / "local", config, engine=LocalEngine(2))
    build_shards(raw, tmp_path / "ray", config, engine=RayEngine(2, src=raw, out=tmp_path / "ray"))
    assert make.hashes(tmp_path / "ray") == make.hashes(tmp_path / "local")


def test_every_long_stage_runs_in_ray_workers(raw: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    engine = Witness(RayEngine(2, src=raw, out=out))
    build_shards(raw, out, CONFIG, engine=engine)
    for stage in STAGES:
        assert engine.processes[stage], stage
        assert os.getpid() not in engine.processes[stage], stage
    assert make.hashes(out) == make.hashes(whole)


def test_a_worker_killed_in_each_stage_changes_no_byte(raw: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    engine = Killing(RayEngine(2, src=raw, out=out), tmp_path / "killed")
    build_shards(raw, out, CONFIG, engine=engine)
    assert engine.killed >= KILLED_IN_EACH
    assert make.hashes(out) == make.hashes(whole)


def test_killed_workers_change_no_byte_of_a_build(raw: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with killing(ray_workers, times=3) as killed:
        build_shards(raw, out, CONFIG, engine=RayEngine(2, src=raw, out=out))
    assert len(killed) == 3
    assert make.hashes(out) == make.hashes(whole)


def test_the_command_line_starts_a_cluster_and_ends_it(raw: Path, tmp_path: Path) -> None:
    """From a relative folder, for workers have a working folder of their own."""
    options = ["--src", str(raw), "--out", "out", "--workers", "2", "--engine", "ray"]
    command = [sys.executable, "-m", "mimicit", "build", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plain = tmp_path / "plain"
    build_shards(raw, plain, BuildConfig(), engine=LocalEngine(2))
    assert make.hashes(tmp_path / "out") == make.hashes(plain)


def test_a_node_that_cannot_take_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    place = tmp_path / "work" / "token"
    versions = _versions()
    assert _probe(tmp_path, tmp_path / "token", "t", versions) is None
    assert "does not see" in str(_probe(tmp_path / "none", tmp_path / "token", "t", versions))
    assert f"does not see what is written to {tmp_path}" in str(_probe(tmp_path, place, "t", versions))
    assert "has pillow" in str(_probe(tmp_path, tmp_path / "token", "t", {**versions, "pillow": "1.0"}))
    with pytest.raises(BuildError, match=r"node [0-9.]+ of the Ray cluster does not see .*file system that all"):
        list(RayEngine(2, src=tmp_path / "none", out=tmp_path).run(square, [1], label="count", progress=Silent()))


def test_without_ray_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'mimicit\[ray\]'"):
        RayEngine(2, src=tmp_path, out=tmp_path)
