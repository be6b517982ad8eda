"""What a command took, by the stages that it says are done."""

from __future__ import annotations

import sys

from tools.measured import run_measured

COMMAND = """
import sys, time

def work(stage, seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    print(f"{stage}: 2,000/2,000 (5/s)", file=sys.stderr, flush=True)
    time.sleep(0.3)

print("first: 1/2,000 (5/s, 0:00:01 left)", file=sys.stderr, flush=True)
work("first", 0.2)
work("second", 0.5)
"""


def test_cpu_time_goes_to_the_stage_that_is_done() -> None:
    measured = run_measured([sys.executable, "-c", COMMAND])
    assert measured.returncode == 0
    assert list(measured.stages) == ["first", "second"]
    assert 0.4 <= measured.stages["second"] <= measured.cpu_seconds - 0.2
    assert measured.stderr.count("2,000/2,000") == 2
