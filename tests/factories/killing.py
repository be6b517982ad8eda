"""Kill a build at every single fsync and rename: each in a fork of this process, which then looks at what is left.

``python -m tests.factories.killing RAW OUT STEP DEDUPE``: at every STEP-th call. Prints how many calls a build makes;
exit code 1 and the first fault otherwise. The tasks run in the forked process itself, so every call of the build,
those of its workers too, is counted in a fixed order.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mimicit.pipeline import BuildConfig, build_shards
from mimicit.shards.manifest import MANIFEST_NAME
from tests.factories.engines import InProcess
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


def check_every_call(raw: Path, folder: Path, step: int, config: BuildConfig) -> int:
    """The number of calls that were tried; raises `AssertionError` at the first that leaves something wrong."""

    def build(out: Path, call: int) -> int:
        kill_before(call)
        build_shards(raw, out, config, engine=InProcess())
        return 0

    whole = folder / "whole"
    assert forked(lambda: build(whole, 0)) == 0
    truth = hashes(whole)
    call = tried = 0
    while True:
        call, out = call + step, folder / f"killed-{call + step}"
        code = forked(lambda out=out, call=call: build(out, call))  # type: ignore[misc]
        if code == 0:  # a build makes fewer calls
            return tried
        assert code == KILLED_BY_ITSELF, f"call {call}: exit code {code}"
        tried += 1
        left = hashes_without_work(out)
        final = {name: digest for name, digest in left.items() if not name.endswith(".tmp")}
        wrong = [name for name, digest in final.items() if truth.get(name) != digest]
        assert not wrong, f"call {call}: {wrong[0]} has its final name and other bytes"
        assert MANIFEST_NAME not in final or final == truth, f"call {call}: a manifest before its files"
        assert forked(lambda out=out: build(out, 0)) == 0, f"call {call}: the rerun failed"  # type: ignore[misc]
        assert hashes(out) == truth, f"call {call}: the rerun ended with other bytes"
        shutil.rmtree(out)


def main() -> int:
    raw, folder, step, dedupe = sys.argv[1:]
    config = BuildConfig(shard_bytes=32 * 1024, shots=1, dedupe=dedupe == "dedupe")
    try:
        tried = check_every_call(Path(raw), Path(folder), int(step), config)
    except AssertionError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{tried}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
