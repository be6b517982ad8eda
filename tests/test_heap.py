"""A worker does not hand its memory back and ask for it again for every picture."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.factories.media import encoded, scene

PROGRAM = """
import resource, sys
from mimicit.heap import keep_freed_memory
from mimicit.media import MediaOptions, encode_image

if sys.argv[1] == "keep":
    keep_freed_memory()
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
    assert faults_per_picture("keep") < 50 < 300 < faults_per_picture("leave")
