"""Killed anywhere, the same command goes on: nothing that was kept is asked again, nothing is lost, same bytes."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicit.annotating.config import Limits
from mimicit.annotating.recipe import parse_recipe
from mimicit.annotating.run import Server, annotate
from mimicit.annotating.store import Store
from mimicit.annotating.work import Work, refusals_named
from mimicit.errors import AnnotateError
from mimicit.progress import Progress
from mimicit.sources.files.root import Root
from tests.factories.annotating import KEY, RECIPE, ModelServer, Reply, captioned_pictures, model_server, sound
from tests.factories.killing import KILLED_BY_ITSELF, forked, kill_before

pytest.importorskip("openai", reason="comes with the extra 'annotate'")


class Quiet:
    def update(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        pass

    def note(self, message: str) -> None:
        pass


def run(raw: Path, out: Path, server: ModelServer) -> int:
    recipe = parse_recipe(RECIPE, "test")
    with refusals_named(out), Work(raw, out, recipe, root=Root(raw), limit=None, format=None) as work:
        annotate(work, Server(model="m", base_url=server.url, key=KEY), Limits(concurrency=4), Quiet(), report=False)
    return 0


def stored(out: Path) -> set[str]:
    """The hashes of what is kept, without the lock; as a killed process left it."""
    path = out / ".annotate" / "answers"
    if not path.exists():
        return set()
    copy = out.parent / f"{out.name}-copy"
    copy.write_bytes(path.read_bytes())
    with Store(copy) as store:
        return {place.hex() for place in store._places}


def check_a_killed_run(
    raw: Path, out: Path, server: ModelServer, killed: Callable[[], int], truth: dict[str, bytes]
) -> int:
    """Kill one run and look at what it left; its exit code."""
    before, asked = stored(out), len(server.asked)
    code = killed()
    assert not before & set(server.asked[asked:]), "asked again although it was kept"
    after = stored(out)
    assert before <= after <= set(server.answered), "lost, or kept before it was answered"
    for name, data in truth.items():
        path = out / name
        assert not path.exists() or path.read_bytes() == data, f"{name} has its final name and other bytes"
    return code


def finish(raw: Path, out: Path, server: ModelServer, truth: dict[str, bytes]) -> None:
    assert check_a_killed_run(raw, out, server, lambda: forked(lambda: run(raw, out, server)), truth) == 0
    assert {name: (out / name).read_bytes() for name in truth} == truth


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_every_fsync_and_rename_loses_nothing(tmp_path: Path, step: int) -> None:
    raw = captioned_pictures(tmp_path / "raw", 5)
    with model_server() as server:
        truth = whole(raw, tmp_path / "whole", server)
        for call in range(1, 100, step):
            out = tmp_path / f"killed-{call}"

            def killed(out: Path = out, call: int = call) -> int:
                return forked(lambda: kill_before(call) and run(raw, out, server))

            code = check_a_killed_run(raw, out, server, killed, truth)
            if code == 0:
                break
            assert code == KILLED_BY_ITSELF
            finish(raw, out, server, truth)
        assert call > 8  # the store is made, answers are kept, the manifest, rejects and options get their names


@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing(tmp_path: Path, kills: int) -> None:
    raw = captioned_pictures(tmp_path / "raw", 8 * kills)
    draw = random.Random(kills)
    with model_server() as server:
        truth = whole(raw, tmp_path / "whole", server)
        server.reply = lambda body, number: Reply(**{**sound(body).__dict__, "delay_s": 0.02})
        for _ in range(kills):
            out, begun = tmp_path / "killed", len(server.asked)

            def killed(out: Path = out, begun: int = begun) -> int:
                pid = os.fork()
                if not pid:
                    os._exit(run(raw, out, server))
                wanted = begun + draw.randrange(8)
                while len(server.asked) < wanted and os.waitpid(pid, os.WNOHANG) == (0, 0):
                    time.sleep(0.001)
                time.sleep(draw.random() * 0.03)
                os.kill(pid, signal.SIGKILL)
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

            assert check_a_killed_run(raw, out, server, killed, truth) == -signal.SIGKILL
        finish(raw, tmp_path / "killed", server, truth)
        assert len(set(server.answered)) == 8 * kills


@pytest.mark.parametrize(("largest", "when"), [(0, "begun"), (9000, "begun"), (1500, "read"), (4000, "read")])
def test_a_file_that_cannot_grow_is_named_and_with_space_the_run_goes_on(
    tmp_path: Path, largest: int, when: str
) -> None:
    """Every file, so that the store, the table of records, the outcomes and the manifest have their turns."""
    raw, out = captioned_pictures(tmp_path / "raw", 5), tmp_path / "out"

    def limited() -> int:
        real = Work.read

        def read(work: Work, progress: Progress) -> int:
            jobs = real(work, progress)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
            return jobs

        if when == "begun":
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        Work.read = read  # type: ignore[method-assign]  # in a process that ends here
        try:
            return run(raw, out, server)
        except AnnotateError as error:
            return 3 if str(out) in str(error) and "same command again" in str(error) else 4

    with model_server() as server:
        truth = whole(raw, tmp_path / "whole", server)
        assert check_a_killed_run(raw, out, server, lambda: forked(limited), truth) == 3
        finish(raw, out, server, truth)


def test_ctrl_c_keeps_what_is_on_its_way_and_the_run_goes_on(tmp_path: Path) -> None:
    raw, out = captioned_pictures(tmp_path / "raw", 60), tmp_path / "out"

    def told() -> int:
        try:
            return run(raw, out, server)
        except AnnotateError as error:
            return 3 if str(error).startswith("interrupted; what was answered is kept") else 4

    def interrupted() -> int:
        pid = os.fork()
        if not pid:
            os._exit(told())
        while len(server.asked) < begun + 6:
            time.sleep(0.001)
        os.kill(pid, signal.SIGINT)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    with model_server() as server:
        truth = whole(raw, tmp_path / "whole", server)
        server.reply = lambda body, number: Reply(**{**sound(body).__dict__, "delay_s": 0.1})
        begun = len(server.asked)
        assert check_a_killed_run(raw, out, server, interrupted, truth) == 3
        assert stored(out) == set(server.asked[begun:]) and len(stored(out)) < 60
        finish(raw, out, server, truth)


def whole(raw: Path, out: Path, server: ModelServer) -> dict[str, bytes]:
    assert forked(lambda: run(raw, out, server)) == 0
    return {name: (out / name).read_bytes() for name in ("manifest.jsonl", "rejects.jsonl", "mimicit.toml")}
