"""Settings for all tests, so that a test takes as long as what it tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from otter_train.model import Otter
    from otter_train.training.flops import Flops

# No deadlines, for timing decides no test; the same examples on every run. `make test-all` takes the thorough profile.
settings.register_profile(
    "project", max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("project"), max_examples=100)
settings.load_profile("project")

# There is a process of pytest for each core. Set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Hundreds of programs are started, and none needs to compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


gc.disable()  # while modules are imported, which leave next to no garbage


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays: no collection of garbage has to look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)  # trees of syntax and models of many modules are no garbage, and are large
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What is written here need not outlive a power failure; programs that tests start do wait.

    A small build syncs 75 files, and a disk takes milliseconds for each.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which takes open descriptors alone, too
        yield


@pytest.fixture(scope="session", autouse=True)
def no_repeated_start_of_duckdb() -> Iterator[None]:
    """Builds in this process share one instance, whose start takes as long as an eighth of a small build.

    A build that fails may leave tables in it, so the next one starts its own; and so does a fork, which has none of the
    threads of DuckDB. Where no collected test builds, DuckDB is not imported here.
    """
    if "mimicit.pipeline.run" not in sys.modules:
        yield
        return
    import duckdb

    from mimicit.pipeline import joins

    owner = os.getpid()
    started_once = joins.started_once
    kept: list[duckdb.DuckDBPyConnection] = []

    @contextmanager
    def started_before(work: Path) -> Iterator[None]:
        if os.getpid() != owner:
            with started_once(work):
                yield
            return
        with ExitStack() as unless_done:
            instance = kept.pop() if kept else duckdb.connect(config={"threads": 1})
            unless_done.callback(instance.close)
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(joins._instances, work, instance)
                yield
            unless_done.pop_all()
            kept.append(instance)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimicit.pipeline.run.started_once", started_before)
        yield
    for instance in kept:
        instance.close()


@pytest.fixture(scope="session", autouse=True)
def no_repeated_drawing_and_counting() -> Iterator[None]:
    """Loss curves after the first are copies of it, and models of equal shapes are counted once.

    Either takes longer than the steps of a short run. Tests of `draw_loss` and `count_flops` call them where they are
    defined, and programs that tests start draw and count. Where no collected test trains, torch is not imported here.
    """
    if "otter_train.training.loop" not in sys.modules:
        yield
        return
    from otter_train.reporting.metrics import draw_loss
    from otter_train.training.flops import count_flops

    drawn: list[bytes] = []
    counted: dict[Any, Flops] = {}

    def draw_once(rows: Sequence[Any], path: Path, held_out: Sequence[Any] = ()) -> None:
        if not drawn:
            draw_loss(rows, path, held_out)
            drawn.append(path.read_bytes())
        path.write_bytes(drawn[0])

    def count_once(model: Otter, *, with_tower: bool = True) -> Flops:
        weights = tuple((name, one.shape, one.requires_grad) for name, one in model.named_parameters())
        key = (weights, model.vision.image_size, with_tower)
        if key not in counted:
            counted[key] = count_flops(model, with_tower=with_tower)
        return counted[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("otter_train.training.log.draw_loss", draw_once)
        patch.setattr("otter_train.training.session.count_flops", count_once)
        yield
