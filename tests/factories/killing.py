"""Kill a build at every single fsync and rename: each in a fork of this process, which then looks at what is left."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mimicit.shards.manifest import MANIFEST_NAME
from tests.factories.raw import hashes, hashes_without_work

KILLED_BY_ITSELF = -signal.SIGKILL


def kill_before(call: int) -> list[int]:
    """Let this process die before its ``call``-th fsync or rename (from 1); the list counts the calls."""
    count = [0]

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return counted

    for name in ("fsync", "link", "rename", "replace"):
        setattr(os, name, dying(getattr(os, name)))
    return count


def forked(work: Callable[[], int]) -> int:
    """The exit code of ``work`` in a fork of this process; negative: the signal that ended it."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(work())
        except BaseException:
            traceback.print_exc()
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check_every_call(build: Callable[[Path], object], folder: Path, step: int, begun: Path | None = None) -> int:
    """Kill ``build``, which writes the folder that it is given, before every ``step``-th call, and run it again.

    It begins with a copy of ``begun``, or with nothing, and runs its tasks in its own process: so every call counts,
    and in a fixed order. Returns the number of calls that were tried.
    """

    def run(out: Path, call: int) -> int:
        def work() -> int:
            kill_before(call)
            build(out)
            return 0

        return forked(work)

    def new(name: str) -> Path:
        return folder / name if begun is None else Path(shutil.copytree(begun, folder / name))

    whole = new("whole")
    assert run(whole, 0) == 0
    truth = hashes(whole)
    before = {} if begun is None else hashes(begun)
    for tried, call in enumerate(itertools.count(step, step)):
        out = new(f"killed-{call}")
        code = run(out, call)
        if code == 0:  # a build makes fewer calls
            return tried
        assert code == KILLED_BY_ITSELF, f"call {call}: exit code {code}"
        left = hashes_without_work(out)
        final = {name: digest for name, digest in left.items() if not name.endswith(".tmp")}
        wrong = [name for name, digest in final.items() if digest not in (truth.get(name), before.get(name))]
        assert not wrong, f"call {call}: {wrong[0]} has its final name and other bytes"
        assert MANIFEST_NAME not in final or final in (truth, before), f"call {call}: a manifest before its files"
        assert run(out, 0) == 0, f"call {call}: the rerun failed"
        assert hashes(out) == truth, f"call {call}: the rerun ended with other bytes"
        shutil.rmtree(out)
    raise AssertionError("unreachable")
