"""Settings for all tests, so that a test takes as long as what it tests."""

from __future__ import annotations

import os
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


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What is written here need not outlive a power failure; programs that tests start do wait.

    A small build syncs 75 files, and a disk takes milliseconds for each.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which takes open descriptors alone, too
        yield
