"""Time and largest memory of a command with all its processes, read from /proc while it runs."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Exit code, wall seconds, CPU seconds, and the peak resident set (bytes) of the largest process.

    The CPU seconds are those of processes that were seen; one that ends within a tenth of a second is counted in part.
    """

    returncode: int
    seconds: float
    cpu_seconds: float
    peak_rss: int
    stderr: str


def run_measured(command: Sequence[str]) -> Measured:
    """Run ``command`` in a session of its own and watch all processes of that session.

    Modules are compiled once, as where they are installed, whatever ``PYTHONDONTWRITEBYTECODE`` says here.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / "mimicit-bytecode"))
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    peak = 0
    cpu: dict[str, float] = {}
    while process.poll() is None:
        for path, seconds in _session(process.pid):
            peak = max(peak, _peak(path))
            cpu[path.name] = seconds
        time.sleep(0.1)
    _, stderr = process.communicate()
    return Measured(
        returncode=process.returncode,
        seconds=time.monotonic() - started,
        cpu_seconds=sum(cpu.values()),
        peak_rss=peak,
        stderr=stderr,
    )


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
