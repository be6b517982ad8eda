"""Time and largest memory of a command with all its processes, and of its stages, read from /proc while it runs."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_STAGE_DONE: Final = re.compile(r"^([a-z ]+): ([\d,]+)/\2 \(", re.MULTILINE)  # as mimicit.progress writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Exit code, wall seconds, CPU seconds, and the peak resident set (bytes) of the largest process.

    The CPU seconds are those of processes that were seen; one that ends within a tenth of a second is counted in part.
    ``stages`` are those of them by stage, where the command says on standard error that one is done: what was taken
    since the one before, to a tenth of a second; the start is part of the first.
    """

    returncode: int
    seconds: float
    cpu_seconds: float
    peak_rss: int
    stderr: str
    stages: Mapping[str, float]


def run_measured(command: Sequence[str]) -> Measured:
    """Run ``command`` in a session of its own and watch all processes of that session.

    Modules are compiled once, as where they are installed, whatever ``PYTHONDONTWRITEBYTECODE`` says here.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / "mimicit-bytecode"))
    peak = known = 0
    cpu: dict[str, float] = {}
    stages: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryFile("w+") as said:
        started = time.monotonic()
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=said, env=environment
        )
        while process.poll() is None:
            for path, seconds in _session(process.pid):
                peak = max(peak, _peak(path))
                cpu[path.name] = seconds
            done = _STAGE_DONE.findall(_text(said.fileno()))
            if len(done) > known:
                stages[done[-1][0]] += sum(cpu.values()) - sum(stages.values())
                known = len(done)
            time.sleep(0.1)
        seconds = time.monotonic() - started
        stderr = _text(said.fileno())
    return Measured(
        returncode=process.returncode,
        seconds=seconds,
        cpu_seconds=sum(cpu.values()),
        peak_rss=peak,
        stderr=stderr,
        stages=stages,
    )


def _text(descriptor: int) -> str:
    """What was written to a file so far."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def _session(leader: int) -> list[tuple[Path, float]]:
    """The processes of the session of ``leader``, and the CPU seconds of each so far."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(fields[3]) == leader:
                found.append((path, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")))
    return found


def _peak(path: Path) -> int:
    try:
        lines = (path / "status").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return max((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), default=0)
