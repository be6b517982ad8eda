"""A worker keeps its memory from picture to picture, and to one thread."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from mimicit.pipeline.engines.local import LocalEngine
from mimicit.progress import Silent
from tests.factories.media import encoded, scene
from tests.factories.tasks import blas_threads

PROGRAM = """
import resource, sys
from mimicit.worker import begin_worker
from mimicit.media import MediaOptions
from mimicit.media.image import encode_image

if sys.argv[1] == "worker":
    begin_worker()
data = sys.stdin.buffer.read()
for _ in range(4):
    encode_image(data, MediaOptions())
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    encode_image(data, MediaOptions())
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""


def faults_per_picture(mode: str) -> float:
    data = encoded(scene(1500, 1000), "JPEG")
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], check=True, capture_output=True, input=data)
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_pictures_after_the_first_cost_no_new_memory() -> None:
    assert faults_per_picture("worker") < 50 < 300 < faults_per_picture("other")


def test_blas_has_one_thread() -> None:
    program = (
        "import numpy, threadpoolctl; from mimicit.worker import begin_worker; begin_worker();"
        "print([pool['num_threads'] for pool in threadpoolctl.threadpool_info()])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    assert set(json.loads(done.stdout)) == {1}


def test_workers_of_a_build_begin_so() -> None:
    engine = LocalEngine(1)
    try:
        ((_, threads),) = engine.run(blas_threads, [None], label="count", progress=Silent())
    finally:
        engine.close()
    assert set(threads) == {1}


def test_beginning_again_keeps_no_garbage() -> None:
    """Workers of a cluster begin with every task; a cycle that one leaves must still be found."""
    program = (
        "import gc, weakref; from mimicit.worker import begin_worker\n"
        "class Cycle: pass\n"
        "begin_worker(); gc.disable()\n"
        "one = Cycle(); one.itself = one; left = weakref.ref(one); del one\n"
        "begin_worker(); gc.collect(); print(left())"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "None\n"
