"""How fast `mimicit annotate` asks, and in how much memory: a local server that answers at once, and made-up captions.

``python -m tools.bench_annotate --records 100000 --concurrency 256``. The server is a process of its own; its limit is
measured first, by a client that does nothing but send the same request over that many connections.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import click

from mimicit.annotating.config import Limits
from mimicit.annotating.recipe import read_recipe
from mimicit.annotating.run import Server, annotate
from mimicit.annotating.work import Work
from mimicit.sources.files.root import Root

_LIMIT_SECONDS: Final = 3.0
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class _Answers(asyncio.Protocol):
    """Two pairs that depend on the request."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            start = head.find(b"content-length:") + 15
            size = int(head[start:].split(b"\r\n")[0])
            if len(self._received) < end + 4 + size:
                return
            body = self._received[end + 4 : end + 4 + size]
            self._received = self._received[end + 4 + size :]
            answer = _answer(body)
            self._transport.write(_HEAD % len(answer) + answer)


def _answer(body: bytes) -> bytes:
    tag = hashlib.sha256(body).hexdigest()
    words = " ".join(tag[place : place + 4] for place in range(0, 48, 4))
    first = {"instruction": f"What stands out in {tag[:8]}?", "answer": f"A thing like {words} is what one notices."}
    second = {"instruction": f"Where is {tag[8:16]}?", "answer": f"It lies beside {words}, under a tree on the left."}
    message = {"role": "assistant", "content": json.dumps({"pairs": [first, second]})}
    usage = {"prompt_tokens": 150, "completion_tokens": 80}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()


def _serve(port: Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Answers, "127.0.0.1", 0, backlog=1024)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def _limit(port: int, connections: int) -> float:
    """Requests a second that the server answers to a client that only sends and reads."""
    request = b"POST / HTTP/1.1\r\nContent-Length: 1500\r\n\r\n" + b" " * 1500
    ends = time.monotonic() + _LIMIT_SECONDS
    answered = 0

    async def ask() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < ends:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rpartition(b":")[2]))
            answered += 1
        writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    return answered / _LIMIT_SECONDS


class _Times:
    """When the asking began and ended."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def update(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        if stage == "ask":
            self.began = self.began or time.monotonic()
            self.ended = time.monotonic()

    def note(self, message: str) -> None:
        pass


@click.command()
@click.option("--records", default=100_000, show_default=True)
@click.option("--concurrency", default=256, show_default=True)
def main(records: int, concurrency: int) -> None:
    """Print requests a second, memory, and what a second run takes."""
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(sender,), daemon=True)
    process.start()
    port = receiver.recv()
    click.echo(f"the server alone: {asyncio.run(_limit(port, concurrency)):,.0f} requests/s")
    recipe = read_recipe("detail")
    server = Server(model="none", base_url=f"http://127.0.0.1:{port}/v1")
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder, "raw"), Path(folder, "out")
        raw.mkdir()
        with (raw / "own.jsonl").open("w") as file:
            file.writelines(
                json.dumps(
                    {"id": number, "instruction": f"What is {number}?", "answer": f"The thing of number {number}."}
                )
                + "\n"
                for number in range(records)
            )
        for run in ("first", "second"):
            times, began, cpu = _Times(), time.monotonic(), time.process_time()
            with Work(raw, out, recipe, root=Root(raw), limit=None, format=None) as work:
                summary = annotate(work, server, Limits(concurrency=concurrency), times, report=False)
            rate = records / (times.ended - times.began)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            cpu_ms = (time.process_time() - cpu) * 1000 / records
            click.echo(
                f"{run} run: {summary.asked:,} requests, {rate:,.0f} records/s while asking,"
                f" {time.monotonic() - began:,.1f} s in all, {peak:,.0f} MiB at most,"
                f" {cpu_ms:.2f} ms of CPU a record,"
                f" {summary.counts.kept:,} pairs kept"
            )
    process.terminate()


if __name__ == "__main__":
    main()
