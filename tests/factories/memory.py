"""The largest memory of any process of a command, read from /proc while it runs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Exit code, wall seconds, and the peak resident set (bytes) of the largest process of the command."""

    returncode: int
    seconds: float
    peak_rss: int
    stderr: str


def run_measured(command: Sequence[str]) -> Measured:
    """Run ``command`` in a session of its own and watch all processes of that session."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, *(_peak(path) for path in _session(process.pid)), 0)
        time.sleep(0.1)
    _, stderr = process.communicate()
    return Measured(
        returncode=process.returncode,
        seconds=time.monotonic() - started,
        peak_rss=peak,
        stderr=stderr,
    )


def _session(leader: int) -> list[Path]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(fields[3]) == leader:
                found.append(path)
    return found


def _peak(path: Path) -> int:
    try:
        lines = (path / "status").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return max((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), default=0)
