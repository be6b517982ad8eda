"""Settings for all tests, so that a test takes as long as what it tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# No deadlines, for timing decides no test; the same examples on every run. `make test-all` takes the thorough profile.
settings.register_profile(
    "project", max_examples=32, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("project"), max_examples=100)
settings.load_profile("project")

# There is a process of pytest for each core. Set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Hundreds of programs are started, and none needs to compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays: no collection of garbage has to look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What is written here need not outlive a power failure; programs that tests start do wait.

    A small build syncs 75 files, and a disk takes milliseconds for each.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which takes open descriptors alone, too
        yield
