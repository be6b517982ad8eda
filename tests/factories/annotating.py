"""A server that speaks the OpenAI protocol by a script, and what it is asked about.

``reply(body, number)`` decides what the server does at the number-th request (from 0): a `Reply`. It runs in this
process, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from mimicit.cli import main
from tests.factories import raw as make

KEY = "sk-secret-0123456789"


@dataclass
class Reply:
    """``do`` with the bytes: answer them, or cut, stall, drop."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    do: str = "answer"
    delay_s: float = 0.0


def completion(text: str | None, **more: Any) -> Reply:
    """A well-formed answer."""
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": more.pop("finish", "stop")}
    value = {"id": "same-id", "object": "chat.completion", "choices": [choice], **more}
    value.setdefault("usage", {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120})
    return Reply(body=json.dumps(value).encode())


def pairs_json(*pairs: tuple[str, str]) -> str:
    return json.dumps({"pairs": [{"instruction": question, "answer": answer} for question, answer in pairs]})


def asked(body: dict[str, Any]) -> str:
    """What the last message says."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def sound(body: dict[str, Any], number: int = 0) -> Reply:
    """Two pairs that depend on the request alone."""
    tag = hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).hexdigest()
    words = " ".join(tag[place : place + 4] for place in range(0, 28, 4))
    first = (f"What stands out in {tag[:6]}?", f"A thing of the kind {words} is what one notices there at once.")
    second = (f"Where is number {tag[6:12]}?", f"It lies on the left, beside the other {words} and under the tree.")
    return completion(pairs_json(first, second))


class ModelServer:
    def __init__(self) -> None:
        self.url = ""
        self.reply: Callable[[dict[str, Any], int], Reply] = sound
        self.requests: list[dict[str, Any]] = []
        self.asked: list[str] = []  # hashes of the bodies
        self.answered: list[str] = []  # the same, of those that were answered
        self.times: list[float] = []  # of the requests
        self.seen_headers: list[str] = []


@contextmanager
def model_server() -> Iterator[ModelServer]:
    served = ModelServer()
    loop = asyncio.new_event_loop()
    ready, stopping = threading.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                served.seen_headers.append(head)
                (length,) = (int(line.split(":")[1]) for line in head.lower().split("\r\n") if "content-length" in line)
                raw = await reader.readexactly(length)
                body, number = json.loads(raw), len(served.requests)
                served.requests.append(body)
                served.times.append(time.monotonic())
                served.asked.append(hashlib.sha256(raw).hexdigest())
                reply = served.reply(body, number)
                if reply.delay_s:
                    await asyncio.sleep(reply.delay_s)
                if reply.do == "drop":
                    break
                if reply.do == "stall":
                    await stopping.wait()
                    break
                headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {reply.status} Any\r\n{lines}\r\n".encode("latin-1"))
                if reply.do == "cut":
                    writer.write(reply.body[: len(reply.body) // 2])
                    await writer.drain()
                    break
                writer.write(reply.body)
                await writer.drain()
                if reply.status == 200:
                    served.answered.append(hashlib.sha256(raw).hexdigest())
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 26)
        served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        await stopping.wait()
        server.close()
        await asyncio.sleep(0.01)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield served
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()


def captioned_pictures(folder: Path, count: int) -> Path:
    """``count`` pictures with two captions each, as JSON Lines."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        (folder / f"{number:03}.jpg").write_bytes(make.picture(number))
        rows.append({"image": f"{number:03}.jpg", "caption": [f"a cat of kind {number}", f"cat {number} on a mat"]})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def annotate(raw: Path, out: Path, recipe: Path, server: ModelServer, *more: str, code: int = 0) -> dict[str, Any]:
    words = ["annotate", "--src", str(raw), "--out", str(out), "--recipe", str(recipe), "--model", "m"]
    words += ["--base-url", server.url, "--key-env", "TEST_KEY", "--json", *more]
    words += ["--no-report"] if "--report" not in more else []
    result = CliRunner().invoke(main, words, env={"TEST_KEY": KEY}, catch_exceptions=False)
    assert result.exit_code == code, result.output
    assert KEY not in result.output
    return json.loads(result.stdout) if result.stdout.startswith("{") else {"error": result.stderr}


def rows(out: Path, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


RECIPE = """
name = "test"
pairs = 2
needs = ["text"]
system = "Write {{ pairs }} pairs in {{ language }}."
template = '''
{% for caption in captions %}
- {{ caption }}
{% endfor %}
'''
[request]
max_tokens = 100
"""
