"""What one medium may cost: memory beyond the limit is a reject, time beyond it ends the process; nothing leaks out."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mimicit.errors import RejectedError
from mimicit.media import MediaOptions
from mimicit.media.bounds import TIMER_SIGNALS, bounded, memory_limit
from mimicit.media.image import encode_image
from mimicit.media.video import encode_video
from tests.factories import hostile
from tests.factories.killing import forked
from tests.factories.media import encoded, scene, write_clip

MIB = 1024**2
SMALL = MediaOptions(max_memory_bytes=64 * MIB)


def state() -> list[object]:
    handlers = [signal.getsignal(number) for number in sorted(TIMER_SIGNALS)]
    return [resource.getrlimit(resource.RLIMIT_DATA), signal.getitimer(signal.ITIMER_PROF), *handlers]


def in_new_process(function: Callable[..., None], *arguments: object) -> None:
    """Run it where the heap has no large holes yet, which it would fill without asking the system for memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what a process uses")
def test_an_allocation_beyond_the_limit_is_a_reject_and_one_below_is_not() -> None:
    in_new_process(allocate)


def allocate() -> None:
    before = state()
    with bounded(SMALL):
        assert len(bytes(32 * MIB)) == 32 * MIB
    with pytest.raises(RejectedError, match=r"too_much_memory: .*\(64 MiB\)"), bounded(SMALL):
        bytes(128 * MIB)
    assert state() == before
    assert len(bytes(128 * MIB)) == 128 * MIB


def test_the_limit_counts_from_what_is_used_already() -> None:
    held = bytes(256 * MIB)
    with bounded(SMALL):
        assert encode_image(encoded(scene(), "PNG"), SMALL).width == 96
    assert len(held) == 256 * MIB


def test_a_lower_limit_of_the_process_is_kept() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lower = 8 << 30
    resource.setrlimit(resource.RLIMIT_DATA, (lower, hard))
    try:
        with bounded(MediaOptions(max_memory_bytes=64 << 30)):
            assert resource.getrlimit(resource.RLIMIT_DATA) == (lower, hard)
        assert resource.getrlimit(resource.RLIMIT_DATA) == (lower, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.mark.parametrize("error", [RejectedError("bad_media", "a fault"), KeyError("a bug")])
def test_other_errors_pass_and_the_limits_are_lifted(error: Exception) -> None:
    before = state()
    with pytest.raises(type(error)), bounded(SMALL):
        raise error
    assert state() == before


@pytest.mark.parametrize("clip", [False, True])
def test_decoders_out_of_memory_say_so(tmp_path: Path, clip: bool) -> None:
    """A picture of one bit a pixel takes a byte for each; this MP4 asks for tables of four thousand million entries."""
    path = write_clip(tmp_path / "a.mp4", 3)
    path.write_bytes(hostile.mp4_of_absurd_boxes(path.read_bytes()))
    in_new_process(decode_too_much, path if clip else None)


def decode_too_much(path: Path | None) -> None:
    decode = partial(encode_image, hostile.vast_bitmap()) if path is None else partial(encode_video, path)
    with pytest.raises(RejectedError, match="too_much_memory"), bounded(SMALL):
        decode(SMALL)


def test_c_code_that_never_returns_is_ended() -> None:
    """A regular expression that backtracks for years holds the interpreter, as a decoder in C does."""
    program = (
        "import re; from mimicit.media import MediaOptions; from mimicit.media.bounds import bounded\n"
        "with bounded(MediaOptions(max_seconds=1)): re.match('(a*)*b', 'a' * 64)"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=240, check=False)
    assert -done.returncode in TIMER_SIGNALS


@pytest.mark.parametrize(("limit", "more_s"), [("", 20.0), (", cpu_seconds=1", 0.0)])
def test_time_grows_with_the_pixels_unless_somebody_waits(limit: str, more_s: float) -> None:
    program = (
        "import signal; from mimicit.media import MediaOptions\n"
        "from mimicit.media.bounds import allow_pixels, bounded\n"
        f"with bounded(MediaOptions(max_seconds=1){limit}):\n"
        "    before, _ = signal.getitimer(signal.ITIMER_PROF)\n"
        "    allow_pixels(100_000_000)\n"
        "    print(signal.getitimer(signal.ITIMER_PROF)[0] - before)"
    )
    told = subprocess.run([sys.executable, "-c", program], timeout=240, check=True, capture_output=True, text=True)
    assert float(told.stdout) == pytest.approx(more_s, abs=0.9)


def test_reading_that_never_returns_is_ended_too() -> None:
    program = (
        "import time; from mimicit.media import MediaOptions; from mimicit.media.bounds import bounded\n"
        "with bounded(MediaOptions(max_seconds=0.1)): time.sleep(3600)"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=240, check=False)
    assert done.returncode == -signal.SIGALRM


def test_threads_leave_the_limit_as_it_was() -> None:
    """Two blocks at once, the first of which ends first."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    begun, both_begun, may_end = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        with memory_limit(1 << 30):
            begun.set()
            assert may_end.wait(30)

    def hold_longer() -> None:
        with memory_limit(1 << 30):
            both_begun.set()
            first.join()

    first, second = threading.Thread(target=hold), threading.Thread(target=hold_longer)
    first.start()
    assert begun.wait(30)
    second.start()
    both_begun.wait(0.2)  # in vain where threads take turns
    may_end.set()
    second.join()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_fork_is_not_held_up_by_a_thread_that_it_has_not() -> None:
    may_end, begun = threading.Event(), threading.Event()

    def hold() -> None:
        with memory_limit(1 << 30):
            begun.set()
            assert may_end.wait(30)

    def limited() -> int:
        with memory_limit(1 << 30):
            return 7

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(30)
    try:
        assert forked(limited) == 7
    finally:
        may_end.set()
        thread.join()
