"""How long a build goes on after Ctrl-C, in every stage, and whether it comes to the same shards in the end.

A build is interrupted in one stage, goes on to the next, is interrupted there, and so on, each time as a terminal does
it: a signal to the whole process group. With ``--twice`` a second one follows after 0.2 s. In the end the shards are
compared with those of a build that nobody interrupted. Exit code 1 where a build took more than 2 s to end, left a
process behind, said anything but one line, or the shards differ::

    python -m tools.interrupt_build --triplets 40000
    python -m tools.interrupt_build --triplets 40000 --twice
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

MAX_SECONDS = 2.0
SECOND_S = 0.2
ATTEMPTS = 4
STAGES = (*("scan", "split", "import", "resolve", "encode", "filter", "link", "choose", "plan", "pack", "publish"),)
AFTER = {"resolve": "import", "link": "filter"}
"""Stages of joins, which tell nothing while they run: they follow the last word of these."""

TELLING = """
import contextlib, sys
import mimicit.progress

class Telling:
    def update(self, stage, done, total):
        print("stage", stage, done, total or 0, file=sys.stderr, flush=True)
    def note(self, message):
        pass

mimicit.progress.progress_display = lambda: contextlib.nullcontext(Telling())
from mimicit.cli import main
main(prog_name="mimicit")
"""


def main() -> int:
    """Interrupt every stage, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--triplets", type=int, default=40_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--twice", action="store_true", help="a second signal, soon after the first")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    failed = False
    with tempfile.TemporaryDirectory(prefix="interrupt-build-") as name:
        raw, whole, out = (Path(name) / part for part in ("raw", "whole", "out"))
        make_source(raw, options.triplets)
        lengths = seconds_of_stages(command(raw, whole, options))
        for stage in STAGES:
            delay = rng.random() / 2 * lengths.get(stage, 0.0)  # a stage that goes on has less to do
            took = None
            for attempt in range(ATTEMPTS):
                took, said, left = interrupted(command(raw, out, options), stage, delay, twice=options.twice)
                if took is not None:
                    break
                shutil.rmtree(out)  # it was finished before
                delay = 0.0 if attempt == ATTEMPTS - 2 else delay / 2
            if took is None:
                failed = True
                print(f"{stage:8} was over before the signal came, {ATTEMPTS} times: FAILED", flush=True)
                continue
            lines = len(said.strip().splitlines())
            is_bad = took > MAX_SECONDS or bool(left) or (lines != 1 and not options.twice)
            failed |= is_bad
            print(
                f"{stage:8} {delay:5.2f} s after its beginning: ended after {took:.2f} s; {left} processes left; "
                f"said: {said.strip()[:200]!r}{' FAILED' if is_bad else ''}",
                flush=True,
            )
        subprocess.run(command(raw, out, options), check=True, capture_output=True)
        same = hashes(out) == hashes(whole)
    print("the shards are the same" if same else "the shards DIFFER")
    return int(failed or not same)


def command(raw: Path, out: Path, options: argparse.Namespace) -> list[str]:
    """A build that says on stderr in which stage it is."""
    arguments = ["build", "--src", str(raw), "--out", str(out), "--workers", str(options.workers), "--shots", "2"]
    return [sys.executable, "-c", TELLING, *arguments, "--shard-samples", "2000"]


def make_source(raw: Path, triplets: int) -> None:
    """Conversations of four turns, one picture for 20 of them."""
    rng = np.random.default_rng(0)
    (raw / "images").mkdir(parents=True)
    records = []
    for number in range(triplets // 4):
        if number % 20 == 0:
            Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(raw / f"images/{number}.jpg")
        turns = [
            {"from": speaker, "value": f"{'<image> ' * (turn == 0 == place)}{speaker} says {number} {turn}"}
            for turn in range(4)
            for place, speaker in enumerate(("human", "gpt"))
        ]
        records.append({"id": str(number), "image": f"images/{number // 20 * 20}.jpg", "conversations": turns})
    (raw / "llava.json").write_text(json.dumps(records))


def seconds_of_stages(arguments: list[str]) -> dict[str, float]:
    """How long each stage of a whole build took."""
    begun: dict[str, float] = {}
    last: dict[str, float] = {}
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        stage, now = line.split()[1], time.monotonic()
        begun.setdefault(stage, now)
        last[stage] = now
    if process.wait() != 0:
        raise SystemExit("the build failed")
    order = sorted(begun, key=begun.__getitem__)
    lengths = {stage: last[stage] - begun[stage] for stage in order}
    for stage, before in AFTER.items():
        following = begun[order[order.index(before) + 1]]
        lengths[stage] = following - last[before]
    return lengths


def interrupted(arguments: list[str], stage: str, delay: float, *, twice: bool) -> tuple[float | None, str, int]:
    """(seconds to the end, what was said, processes left) of a build interrupted ``delay`` s after ``stage`` began."""
    process = subprocess.Popen(
        arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    sent: float | None = None
    said = ""
    for line in iter(lines.get, None):
        if sent is None and is_begun(line, stage):
            time.sleep(delay)
            sent = time.monotonic()
            signalled(process)
            if twice:
                time.sleep(SECOND_S)
                signalled(process)
        elif not line.startswith("stage "):
            said += line
    process.wait()
    if sent is None and process.returncode != 0:
        raise SystemExit(f"the build failed before: {said}")
    if sent is None or process.returncode == 0:
        return None, said, 0
    took = time.monotonic() - sent
    time.sleep(0.3)
    return took, said, sum(1 for _ in of_group(process.pid))


def is_begun(line: str, stage: str) -> bool:
    """Whether this line says that the stage runs now."""
    if not line.startswith("stage "):
        return False
    *words, done, total = line.split()[1:]
    return " ".join(words) == AFTER.get(stage, stage) and (stage not in AFTER or done == total or total == "0")


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.put(line)
    lines.put(None)


def signalled(process: subprocess.Popen[str]) -> None:
    """Send what a terminal sends, if there is anybody left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)


def of_group(group: int) -> Iterator[int]:
    """The living processes of a process group."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                yield int(name)


def hashes(out: Path) -> dict[str, str]:
    """The SHA-256 of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir() if path.is_file()}


if __name__ == "__main__":
    sys.exit(main())
