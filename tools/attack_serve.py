"""Attack the endpoint of a model with real sockets, and measure how long a plain question takes meanwhile.

A tiny model is trained for two steps and served by ``python -m otter_train.serve`` in a process of its own. Each attack
runs alone for some seconds, then all of them together; another process asks a plain question again and again. At the
end comes SIGTERM, with all attacks going on. Exit code 1 if a plain question failed, the p99 was above ``--limit``,
the memory above ``--memory-mib``, or the server took more than 5 s to end::

    python -m tools.attack_serve --seconds 10
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from pathlib import Path

from PIL import Image

Address = tuple[str, int]
Attack = Callable[[Address, Event], None]

SHUTDOWN_S = 5
PAUSE_S = 0.05


def main() -> int:
    """Run every attack and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each attack; all together take three times that")
    parser.add_argument("--limit", type=float, default=2.0, help="the p99 of a plain question, in seconds")
    parser.add_argument("--memory-mib", type=float, default=4096, help="of all processes of the server together")
    parser.add_argument("--only", help="the name of one attack")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="attack-serve-") as name, served(tiny_run(Path(name))) as (server, address):
        names = [options.only] if options.only else list(ATTACKS)
        failed |= measure("nothing", [], server.pid, address, options)
        for attack in names:
            failed |= measure(attack, [attack], server.pid, address, options)
        with attacking(names, address):
            failed |= measure("all together", [], server.pid, address, options, factor=3)
            started = time.monotonic()
            server.terminate()
            try:
                code: int | None = server.wait(timeout=60)
            except subprocess.TimeoutExpired:
                code = None
            took = time.monotonic() - started
        print(f"SIGTERM under attack: ended after {took:.1f} s with code {code}", flush=True)
    return int(failed or took > SHUTDOWN_S)


def measure(
    name: str, attacks: list[str], pid: int, address: Address, options: argparse.Namespace, *, factor: int = 1
) -> bool:
    """Print how long plain questions took under ``attacks``; whether that was too long."""
    times: list[float] = []
    failures: list[str] = []
    peak = 0.0
    with attacking(attacks, address):
        end = time.monotonic() + factor * options.seconds
        while time.monotonic() < end:
            started = time.monotonic()
            try:
                status, _ = ask(address, {**PLAIN, "stream": False}, timeout=60)
                if status != 200:
                    failures.append(str(status))
            except OSError as error:
                failures.append(type(error).__name__)
            times.append(time.monotonic() - started)
            peak = max(peak, memory_mib(pid))
            time.sleep(PAUSE_S)
    times.sort()
    p99 = times[min(len(times) - 1, int(0.99 * len(times)))]
    print(
        f"{name:24} {len(times):4} plain questions: p50 {times[len(times) // 2]:.2f} s, p99 {p99:.2f} s, "
        f"slowest {times[-1]:.2f} s, {len(failures)} failed{f' ({failures[0]})' if failures else ''}; "
        f"memory of the server {peak:,.0f} MiB",
        flush=True,
    )
    return bool(failures) or p99 > options.limit or peak > options.memory_mib


PLAIN = {"model": "run", "messages": [{"role": "user", "content": "which colour?"}], "max_tokens": 4}


def ask(address: Address, body: object, *, timeout: float) -> tuple[int, bytes]:
    """The status and the body of one answer, over a connection of its own."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def head(length: int | None, path: str = "/v1/chat/completions") -> bytes:
    """The head of a request with a body of so many bytes; None: one in chunks."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{size}\r\n\r\n".encode()


def question(*, text: str = "which colour?", pictures: list[bytes] | None = None, **fields: object) -> bytes:
    """The body of a request."""
    urls = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in pictures or []]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [*parts, {"type": "text", "text": text}]
    return json.dumps({**PLAIN, "messages": [{"role": "user", "content": content}], **fields}).encode()


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG of one colour whose last pass over the pixels comes again and again."""
    stored = io.BytesIO()
    Image.new("RGB", (side, side), (9, 99, 9)).save(stored, "JPEG", progressive=True, quality=10)
    data = stored.getvalue()
    starts = [place for place in range(len(data) - 1) if data[place : place + 2] == b"\xff\xda"]
    refining = data[starts[5] : starts[6]]
    return data[: starts[6]] + refining * (scans - len(starts)) + data[starts[6] :]


def large_png(side: int) -> bytes:
    """A PNG of many pixels and few bytes."""
    stored = io.BytesIO()
    Image.new("RGB", (side, side)).save(stored, "PNG")
    return stored.getvalue()


def long_texts(address: Address, stop: Event) -> None:
    """Texts of 16 MiB."""
    repeat(8, stop, [question(text="word " * (16 * 2**20 // 5))], lambda body: ask(address, body, timeout=60))


def longest_texts(address: Address, stop: Event) -> None:
    """Texts just below the limit, in one word."""
    repeat(16, stop, [question(text="x" * 65_000)], lambda body: ask(address, body, timeout=60))


def nested_json(address: Address, stop: Event) -> None:
    """20 MB of empty lists."""
    repeat(8, stop, [b'{"messages": [' + b"[]," * 6_500_000 + b"[]]}"], lambda body: ask(address, body, timeout=60))


def scans(address: Address, stop: Event) -> None:
    """Progressive JPEGs of 3,000 scans and of as many as are taken, 25 million pixels each."""
    bodies = [question(pictures=[jpeg_of_scans(5000, count)]) for count in (3000, 99)]
    repeat(16, stop, bodies, lambda body: ask(address, body, timeout=60))


def scans_and_leave(address: Address, stop: Event) -> None:
    """The same, from clients that hang up after half a second."""

    def leave(body: bytes) -> None:
        with suppress(TimeoutError):
            ask(address, body, timeout=0.5)

    repeat(16, stop, [question(pictures=[jpeg_of_scans(5000, 99)])], leave)


def large_pictures(address: Address, stop: Event) -> None:
    """Sixteen PNGs of 25 million pixels in a request."""
    repeat(8, stop, [question(pictures=[large_png(5000)] * 16)], lambda body: ask(address, body, timeout=60))


def slow_bodies(address: Address, stop: Event) -> None:
    """Bodies that come byte by byte."""
    hold(300, address, stop, head(20 * 2**20), b" ")


def stalled_bodies(address: Address, stop: Event) -> None:
    """Bodies of 20 MiB without their end."""
    hold(20, address, stop, head(20 * 2**20) + b" " * (19 * 2**20), b" ")


def half_heads(address: Address, stop: Event) -> None:
    """Heads of requests without their end, more of them than connections are allowed."""
    hold(700, address, stop, b"POST /v1/chat/completions HTTP/1.1\r\nHost: local", b"h")


def crumbs(address: Address, stop: Event) -> None:
    """Bodies in chunks of one byte."""

    def send(data: bytes) -> None:
        with connected(address) as raw:
            raw.sendall(head(None))
            while not stop.is_set():
                raw.sendall(data)

    repeat(8, stop, [b"1\r\n \r\n" * 10_000], send)


def leave_early(address: Address, stop: Event) -> None:
    """Questions with the longest answers, from clients that hang up."""
    body = question(text="which colour? " * 100, max_tokens=256, temperature=2)

    def send(data: bytes) -> None:
        with connected(address) as raw:
            raw.sendall(data)
            time.sleep(0.1)

    repeat(16, stop, [head(len(body)) + body, head(len(body)) + body + head(5)], send)


def read_nothing(address: Address, stop: Event) -> None:
    """Streams that nobody reads."""
    body = question(max_tokens=256, temperature=2, stream=True)
    hold(32, address, stop, head(len(body)) + body, b"")


ATTACKS: dict[str, Attack] = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        long_texts, longest_texts, nested_json, scans, scans_and_leave, large_pictures, slow_bodies, stalled_bodies,
        half_heads, crumbs, leave_early, read_nothing,
    )
}  # fmt: skip


def repeat(threads: int, stop: Event, bodies: list[bytes], send: Callable[[bytes], object]) -> None:
    """Send again and again, from so many threads."""

    def work(number: int) -> None:
        while not stop.is_set():
            with suppress(OSError, http.client.HTTPException):
                send(bodies[number % len(bodies)])

    running = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for thread in running:
        thread.start()
    stop.wait()


def hold(count: int, address: Address, stop: Event, first: bytes, then: bytes) -> None:
    """Keep so many connections that sent ``first`` and go on with ``then`` every second."""
    held: list[socket.socket] = []
    while not stop.is_set():
        for raw in held[:]:
            try:
                raw.sendall(then)
            except OSError:
                raw.close()
                held.remove(raw)
        with suppress(OSError):
            while len(held) < count and not stop.is_set():
                raw = socket.create_connection(address, timeout=10)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                held.append(raw)
                raw.sendall(first)
        stop.wait(1)


@contextmanager
def connected(address: Address) -> Iterator[socket.socket]:
    """A connection."""
    with socket.create_connection(address, timeout=10) as raw:
        yield raw


@contextmanager
def attacking(names: list[str], address: Address) -> Iterator[None]:
    """Run the attacks with these names while the block runs, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    processes = [context.Process(target=_attack, args=(name, address, stop), daemon=True) for name in names]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in processes:
            process.join(10)
            process.kill()


def _attack(name: str, address: Address, stop: Event) -> None:
    os.nice(10)  # strangers attack from machines of their own
    ATTACKS[name](address, stop)


def memory_mib(pid: int) -> float:
    """The memory of a process and of all that it has started, now; what they share counts once (PSS)."""
    total = 0
    todo = [pid]
    while todo:
        process = Path(f"/proc/{todo.pop()}")
        with suppress(OSError):
            lines = (process / "smaps_rollup").read_text().splitlines()
            total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
            for task in (process / "task").iterdir():
                todo += map(int, (task / "children").read_text().split())
    return total / 1024


@contextmanager
def served(run: Path) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """A server of the model in the folder ``run``: its process, and where it listens."""
    command = [sys.executable, "-m", "otter_train.serve", "--checkpoint", str(run), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            port = int(line.rpartition(":")[2].partition("/")[0])
            yield process, ("127.0.0.1", port)
        finally:
            process.kill()


def tiny_run(folder: Path) -> Path:
    """The run folder of a tiny model, trained for two steps on shards of a few pictures, in ``folder``."""
    raw, run = folder / "raw", folder / "run"
    raw.mkdir()
    rows = []
    for number in range(8):
        Image.new("RGB", (48, 48), (30 * number, 99, 9)).save(raw / f"{number}.png")
        rows.append({"id": f"{number}", "media": f"{number}.png", "instruction": "which colour?", "answer": "red"})
    (raw / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command in (
        ["mimicit", "build", "--src", str(raw), "--out", str(folder / "shards")],
        ["otter_train", "--shards", str(folder / "shards"), "--out", str(run), "--max-steps", "2", "--device", "cpu"],
    ):
        subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    return run


if __name__ == "__main__":
    sys.exit(main())
