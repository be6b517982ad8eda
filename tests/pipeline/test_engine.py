"""Engines keep their promise whatever happens to their workers; the same for all of them (Ray: test_build_ray)."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mimicit.errors import BuildError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine, WorkerDiedError
from mimicit.progress import Silent
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.tasks import KILLED_IN_EACH, STAGES, Killing, Witness, die_if_odd, die_once, refuse, square

CONFIG = BuildConfig(shard_bytes=32 * 1024)


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine(2)
    yield engine
    engine.close()


def run(engine: LocalEngine, function: Callable[[Any], Any], tasks: Iterable[Any], **options: Any) -> dict[Any, Any]:
    return dict(engine.run(function, tasks, label="count", progress=Silent(), **options))


def test_every_task_has_its_result(engine: LocalEngine) -> None:
    assert run(engine, square, range(100)) == {number: number**2 for number in range(100)}


def test_tasks_are_drawn_as_there_is_room(engine: LocalEngine) -> None:
    drawn = itertools.count()
    results = engine.run(square, drawn, label="count", progress=Silent())
    for _ in range(20):
        next(results)
    results.close()
    assert next(drawn) <= 20 + 2 * 4


def test_an_error_of_the_function_is_raised(engine: LocalEngine) -> None:
    with pytest.raises(ValueError, match="7 is refused"):
        run(engine, refuse, [7])


def test_a_task_whose_worker_died_is_run_again(engine: LocalEngine, tmp_path: Path) -> None:
    markers = [tmp_path / str(number) for number in range(6)]
    for marker in markers[1:]:
        marker.touch()  # these live
    assert run(engine, die_once, markers) == {marker: marker.name for marker in markers}


def test_a_task_that_always_kills_is_given_up_by_name(engine: LocalEngine) -> None:
    deaths: list[WorkerDiedError] = []

    def on_death(task: int, died: WorkerDiedError, times: int) -> int:
        deaths.append(died)
        return -task

    results = run(engine, die_if_odd, range(6), on_death=on_death)
    assert results == {0: 0, 1: -1, 2: 2, 3: -3, 4: 4, 5: -5}
    assert [died.signal for died in deaths] == [9, 9, 9]
    with pytest.raises(BuildError, match=r"count: .*killed by SIGKILL.*run the same command again"):
        run(engine, die_if_odd, [1])


def test_a_worker_killed_in_each_stage_changes_no_byte(tmp_path: Path) -> None:
    raw = make.make_raw(tmp_path / "raw")
    build_shards(raw, tmp_path / "whole", CONFIG, engine=InProcess())
    engine = Killing(LocalEngine(2), tmp_path / "killed")
    build_shards(raw, tmp_path / "out", CONFIG, engine=engine)
    assert engine.killed >= KILLED_IN_EACH
    assert make.hashes(tmp_path / "out") == make.hashes(tmp_path / "whole")


def test_every_long_stage_runs_in_workers(tmp_path: Path) -> None:
    raw = make.make_raw(tmp_path / "raw")
    engine = Witness(LocalEngine(2))
    build_shards(raw, tmp_path / "out", CONFIG, engine=engine)
    for stage in STAGES:
        assert engine.processes[stage], stage
        assert os.getpid() not in engine.processes[stage], stage


@pytest.mark.parametrize("by", ["file", "stdin"])
def test_a_script_without_a_guard_builds(tmp_path: Path, by: str) -> None:
    """Python's own processes would run the script again in every worker, and with it the build."""
    (tmp_path / "raw").mkdir()
    make.add_manifest(tmp_path / "raw", pictures=3)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from mimicit.pipeline import BuildConfig, build_shards\n"
        "print('begun')\n"
        f"result = build_shards(Path({str(tmp_path / 'raw')!r}), Path({str(tmp_path / 'out')!r}), BuildConfig())\n"
        "print(result.manifest['totals']['samples'])\n"
    )
    name = "-" if by == "stdin" else str(script)
    done = subprocess.run(
        [sys.executable, name], capture_output=True, text=True, input=script.read_text(), check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    begun, samples = done.stdout.split()
    assert begun == "begun" and int(samples) > 0
