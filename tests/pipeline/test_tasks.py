"""A build shared out to the tasks of a batch scheduler: the same bytes, and every missing task is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from mimicit.errors import BuildError, ChangedInputError, UsageError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.config import SourceOptions
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.pipeline.engines.scheduler import Share, WaitingStage, config_from_json
from mimicit.pipeline.engines.tasks import build_share, publish_tasks
from mimicit.pipeline.run import BuildResult, ExecutionOptions, run_build
from mimicit.pipeline.stages import resolve
from mimicit.pipeline.stages.filters import FilterConfig
from mimicit.progress import Silent
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.tasks import KILLED_IN_EACH, Killing

CONFIG = BuildConfig(shard_bytes=32 * 1024)
COUNT = 3


@pytest.fixture(autouse=True, scope="module")
def small_units() -> Iterator[None]:
    """Several units of encoding, from few pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolve, "_LEAST_IN_UNIT", 16)
        yield


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some broken media among them."""
    folder = make.make_raw(tmp_path_factory.mktemp("raw"))
    make.add_manifest(folder, "more", pictures=60, questions=1)
    for number in range(0, 60, 20):
        (folder / "more" / "images" / f"{number}.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    build_shards(raw, out, CONFIG, engine=InProcess())
    return out


def prepare(raw: Path, out: Path, config: BuildConfig = CONFIG, count: int = COUNT) -> BuildResult | WaitingStage:
    return run_build(raw, out, config, InProcess(), Silent(), ExecutionOptions(task_count=count))


def share(raw: Path, out: Path, index: int, config: BuildConfig = CONFIG, count: int = COUNT) -> WaitingStage:
    return build_share(raw, out, config, Share(index=index, count=count), InProcess(), Silent())


def publish(out: Path) -> BuildResult | WaitingStage:
    return publish_tasks(out, InProcess(), Silent())


@pytest.mark.parametrize("dedupe", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tasks_in_any_order_make_the_same_folder(raw: Path, tmp_path: Path, dedupe: bool) -> None:
    config = BuildConfig(shard_bytes=32 * 1024, dedupe=dedupe, near_duplicates=2)
    build_shards(raw, tmp_path / "whole", config, engine=InProcess())
    out = tmp_path / "out"
    waits = prepare(raw, out, config)
    assert isinstance(waits, WaitingStage) and (waits.stage, waits.count) == ("encode", COUNT)
    assert waits.units > COUNT
    for index in (2, 0, 1, 1):  # the last one again, which does nothing
        assert share(raw, out, index, config).stage == "encode"
    waits = publish(out)
    assert isinstance(waits, WaitingStage) and waits.stage == "pack"
    for index in (1, 2, 0):
        assert share(raw, out, index, config).stage == "pack"
    assert isinstance(publish(out), BuildResult)
    assert make.hashes(out) == make.hashes(tmp_path / "whole")
    again = publish(out)
    assert isinstance(again, BuildResult) and again.was_finished


def test_a_worker_killed_in_each_stage_changes_no_byte(raw: Path, whole: Path, tmp_path: Path) -> None:
    out, killed = tmp_path / "out", tmp_path / "killed"
    run_build(raw, out, CONFIG, Killing(LocalEngine(2), killed), Silent(), ExecutionOptions(task_count=COUNT))
    for _ in ("encode", "pack"):
        for index in range(COUNT):
            engine = Killing(LocalEngine(2), killed)
            build_share(raw, out, CONFIG, Share(index=index, count=COUNT), engine, Silent())
        publish_tasks(out, Killing(LocalEngine(2), killed), Silent())
    assert engine.killed >= KILLED_IN_EACH
    assert make.hashes(out) == make.hashes(whole)


def test_missing_tasks_are_named_in_both_stages(raw: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(raw, out)
    for _ in range(2):
        share(raw, out, 0)
        with pytest.raises(BuildError, match=r"tasks 1, 2 of 3 have not finished .*--task-count 3 --task-index 1 and"):
            publish(out)
        share(raw, out, 2)
        with pytest.raises(BuildError, match=r"task 1 of 3 has not finished .*--task-index 1, then mimicit publish"):
            publish(out)
        share(raw, out, 1)
        publish(out)
    assert make.hashes(out) == make.hashes(whole)


def test_work_that_is_lost_is_asked_for_again(raw: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(raw, out)
    for index in range(COUNT):
        share(raw, out, index)
    next((out / ".mimicit-work" / "media").glob("*.arrow")).unlink()
    with pytest.raises(BuildError, match="has not finished"):
        publish(out)
    for index in range(COUNT):
        share(raw, out, index)
    publish(out)
    for index in range(COUNT):
        share(raw, out, index)
    min(out.glob("shard-*.tar")).unlink()
    with pytest.raises(BuildError, match="task 0 of 3 has not finished"):
        publish(out)
    share(raw, out, 0)
    publish(out)
    assert make.hashes(out) == make.hashes(whole)


def test_another_number_of_tasks_takes_over(raw: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(raw, out)
    share(raw, out, 1)
    with pytest.raises(UsageError, match="made ready for 3 tasks"):
        share(raw, out, 1, count=2)
    prepare(raw, out, count=2)
    for _ in range(2):
        share(raw, out, 0, count=2)
        share(raw, out, 1, count=2)
        publish(out)
    assert make.hashes(out) == make.hashes(whole)


def test_a_plain_build_takes_over(raw: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(raw, out)
    share(raw, out, 1)
    assert list((out / ".mimicit-work" / "media").glob("*.arrow"))
    build_shards(raw, out, CONFIG, engine=InProcess())
    assert make.hashes(out) == make.hashes(whole)


def test_nothing_is_mixed(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BuildError, match="nothing is ready for tasks"):
        share(raw, out, 0)
    with pytest.raises(BuildError, match="nothing is ready for tasks"):
        publish(out)
    prepare(raw, out)
    with pytest.raises(ChangedInputError, match="another value of shots"):
        share(raw, out, 0, BuildConfig(shots=0, shard_bytes=32 * 1024))
    with pytest.raises(UsageError, match="--task-index: 3 is not in 0 to 2"):
        share(raw, out, 3)


def test_options_come_back_from_json() -> None:
    config = BuildConfig(
        shots=3,
        filters=FilterConfig(min_side=7),
        sources=(SourceOptions(path="a", filters=FilterConfig(min_side=2)), SourceOptions(path="b", weight=0.5)),
        options={"mmc4": {"min_similarity": 0.2}},
    )
    assert config_from_json(orjson.loads(orjson.dumps(config.to_json()))) == config


@pytest.mark.slow
def test_the_commands_say_what_comes_next(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make.add_manifest(raw, pictures=300, questions=1)

    def mimicit(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "mimicit", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    build = ("build", "--src", str(raw), "--out", "out", "--shard-samples", "50", "--workers", "1", "--task-count", "2")
    said = mimicit(*build)
    assert "each --task-index from 0 to 1, then mimicit publish out" in said
    assert "has done its share (encode)" in mimicit(*build, "--task-index", "0")
    assert "task 1 of 2 has not finished" in mimicit("publish", "out", code=1)
    mimicit(*build, "--task-index", "1")
    assert "ready to pack" in mimicit("publish", "out")
    mimicit(*build, "--task-index", "0")
    mimicit(*build, "--task-index", "1")
    assert "samples" in mimicit("publish", "out")
    build_shards(raw, tmp_path / "whole", BuildConfig(shard_samples=50), engine=InProcess())
    assert make.hashes(tmp_path / "out") == make.hashes(tmp_path / "whole")
