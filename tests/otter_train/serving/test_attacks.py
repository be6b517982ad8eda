"""The endpoint under attack, with real processes and sockets: whatever others do, a plain question is answered."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")
pytest.importorskip("uvicorn", reason="comes with the extra 'serve'")

from otter_train.data.encoding import PromptEncoder
from otter_train.inference.answering import Piece
from otter_train.model import PRESETS
from otter_train.serving.limits import Limits
from otter_train.serving.readers import Readers
from tests.factories.processes import descendants
from tests.factories.serving import request, serving, trained_model
from tests.factories.train import MINUTE_MODEL
from tools import attack_serve as attack

LIMITS = Limits(tokens=16, context=300)
TEN_SCANS = attack.jpeg_of_scans(64, 10)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", MINUTE_MODEL)
        yield trained_model(tmp_path_factory.mktemp("attacked") / "run")


@pytest.fixture(scope="module")
def address(trained: Any) -> Iterator[attack.Address]:
    with serving(trained, LIMITS) as url:
        yield place(url)


@pytest.fixture(scope="module")
def run(trained: Any) -> Path:
    """The run folder of the model, for servers in processes of their own."""
    folder: Path = trained.source.parent
    return folder


def place(url: str) -> attack.Address:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port


def plain(address: attack.Address) -> int:
    """The status of a plain question."""
    return attack.ask(address, request(), timeout=60)[0]


def code_of(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["error"]["code"]


def body_of(**fields: Any) -> bytes:
    return attack.question(**fields, model="otter")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "word " * (16 * 2**20 // 5)}],
        [{"role": "user", "content": [{"type": "text", "text": "x" * 40_000}] * 2}],
        [{"role": "user", "content": [{"type": "text", "text": ""}] * 70_000}],
        [{"role": "system", "content": "y" * 60_000}, {"role": "user", "content": "z" * 6_000}],
        [{"role": "user", "content": "a" * 1_000}, {"role": "assistant", "content": "b" * 65_000}] * 2,
    ],
)
def test_long_texts_are_refused_before_they_are_encoded(
    address: attack.Address, messages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[object] = []
    monkeypatch.setattr(PromptEncoder, "encode", lambda *arguments, **options: encoded.append(arguments))
    answer = attack.ask(address, {"model": "otter", "messages": messages}, timeout=60)
    assert code_of(answer) == (400, "string_above_max_length")
    assert encoded == []


@pytest.mark.parametrize("scans", [101, 3000])
def test_pictures_of_many_scans_are_refused(address: attack.Address, scans: int) -> None:
    answer = attack.ask(address, body_of(pictures=[attack.jpeg_of_scans(2000, scans)]), timeout=60)
    assert code_of(answer) == (400, "invalid_image") and b"too_many_scans" in answer[1]
    assert attack.ask(address, body_of(pictures=[TEN_SCANS]), timeout=60)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        body_of(pictures=[attack.jpeg_of_scans(5000, 99)] * 4),
        body_of(pictures=[attack.large_png(5000)] * 16),
        b'{"messages": [' + b"[]," * 6_000_000 + b"[]]}",
    ],
    ids=["scans", "pixels", "lists"],
)
def test_what_costs_too_much_is_ended(trained: Any, body: bytes) -> None:
    with serving(trained, replace(LIMITS, cpu_seconds=0.3)) as url:
        status, code = code_of(attack.ask(place(url), body, timeout=60))
        assert status == 400 and code in ("request_too_costly", "missing_required_parameter")
        assert plain(place(url)) == 200


def test_costly_pictures_do_not_keep_others_waiting(trained: Any) -> None:
    body = body_of(pictures=[attack.jpeg_of_scans(5000, 99)] * 2)
    with serving(trained, replace(LIMITS, cpu_seconds=0.4)) as url, ThreadPoolExecutor(12) as pool:
        costly = [pool.submit(attack.ask, place(url), body, timeout=120) for _ in range(12)]
        for _ in range(5):
            assert plain(place(url)) == 200
        assert not all(one.done() for one in costly)
        assert {one.result()[0] for one in costly} <= {200, 400, 429, 503}


def test_clients_who_leave_take_their_decoding_with_them(trained: Any) -> None:
    body = body_of(pictures=[attack.jpeg_of_scans(5000, 99)] * 3)
    with serving(trained, replace(LIMITS, cpu_seconds=1e4)) as url:
        before = {pid: cpu_ticks(pid) for pid in descendants(os.getpid())}  # readers of other servers among them
        with ExitStack() as stack:
            for _ in range(6):
                raw = stack.enter_context(socket.create_connection(place(url), timeout=30))
                raw.sendall(attack.head(len(body)) + body)
            wait_for(lambda: any(cpu_ticks(pid) > ticks + 30 for pid, ticks in before.items()))  # 0.3 s of 9 s
            busy = {pid for pid, ticks in before.items() if cpu_ticks(pid) > ticks + 30}
        wait_for(lambda: not busy & set(descendants(os.getpid())))
        assert plain(place(url)) == 200


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it never came about")


def cpu_ticks(pid: int) -> int:
    """The CPU time of a process of lower priority than ours: of those that read what is costly."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12]) if int(fields[16]) > os.nice(0) else 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ahead", [b"", b"GET /health HTTP/1.1\r\n"])
def test_answers_to_clients_who_left_are_not_computed(
    trained: Any, monkeypatch: pytest.MonkeyPatch, stream: bool, ahead: bytes
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(*arguments: Any, is_closed: Callable[[int], bool], **options: Any) -> Iterator[Piece]:
        count = 0
        while not is_closed(0):
            count += 1
            begun.set()
            yield Piece(row=0, text="x", tokens=count, finish=None)
            threading.Event().wait(0.01)
        ended.set()

    with serving(trained, replace(LIMITS, queue=1)) as url:
        body = json.dumps(request(stream=stream)).encode()
        with monkeypatch.context() as patch:
            patch.setattr("otter_train.serving.worker.stream_answers", endless)
            with socket.create_connection(place(url), timeout=30) as raw:
                raw.sendall(attack.head(len(body)) + body + ahead)
                assert begun.wait(30)
            assert ended.wait(30)
        assert plain(place(url)) == 200  # in the one place that there is


@pytest.mark.parametrize("sent", [b"", b"{", b'{"model": "otter", "messages": ['])
def test_slow_bodies_keep_nobody_waiting(trained: Any, sent: bytes) -> None:
    with serving(trained, replace(LIMITS, queue=4)) as url, ExitStack() as stack:
        for _ in range(40):
            raw = stack.enter_context(socket.create_connection(place(url), timeout=30))
            raw.sendall(attack.head(2**20) + sent)
        assert plain(place(url)) == 200


def test_large_bodies_without_an_end_make_room_for_others(trained: Any) -> None:
    size = 2**20
    with serving(trained, replace(LIMITS, body_bytes=size)) as url, ExitStack() as stack:
        held = []
        for _ in range(20):
            held.append(stack.enter_context(socket.create_connection(place(url), timeout=30)))
            held[-1].sendall(attack.head(size) + b" " * (size - 1))
        # The one that has been coming for the longest is given up, while it waits (408) or while it still sends (429).
        assert held[0].recv(100).startswith((b"HTTP/1.1 408", b"HTTP/1.1 429"))
        large = json.dumps(request()).encode().ljust(size)
        assert attack.ask(place(url), large, timeout=60)[0] == 200
        assert plain(place(url)) == 200


def test_short_answers_go_before_the_rest_of_long_ones(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from otter_train.serving import worker

    whole = worker.stream_answers
    passed = threading.Event()

    def slow(trained: Any, prompts: Any, options: Any, **others: Any) -> Iterator[Piece]:
        if options[0].max_new_tokens == 4:
            yield from whole(trained, prompts, options, **others)
            return
        count = 0
        while not passed.is_set():
            count += 1
            yield Piece(row=0, text="x", tokens=count, finish=None)
            threading.Event().wait(0.01)
        yield Piece(row=0, text="", tokens=count, finish="length")

    monkeypatch.setattr(worker, "stream_answers", slow)
    with serving(trained, replace(LIMITS, tokens=200)) as url, ThreadPoolExecutor(1) as pool:
        long = pool.submit(attack.ask, place(url), request(max_tokens=200), timeout=60)
        for _ in range(3):
            assert plain(place(url)) == 200
        assert not long.done()
        passed.set()
        assert long.result()[0] == 200


def test_a_decoder_that_crashes_costs_one_answer(trained: Any) -> None:
    with serving(trained, LIMITS) as url:
        for pid in [pid for pid in descendants(os.getpid()) if is_reader(pid)]:
            os.kill(pid, signal.SIGKILL)
        assert [plain(place(url)) for _ in range(4)] == [200] * 4
        assert attack.ask(place(url), body_of(pictures=[TEN_SCANS]), timeout=60)[0] == 200


def is_reader(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:  # it has just ended
        return False
    return b"forkserver" in command and descendants(os.getpid()).get(pid) != os.getpid()


def test_readers_end_with_their_context() -> None:
    with Readers(LIMITS) as readers:
        pids = [process._process.pid for process in readers._processes]
        assert all(pid in descendants(os.getpid()) for pid in pids)
    wait_for(lambda: not any(pid in descendants(os.getpid()) for pid in pids))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_the_server_whatever_is_under_way(run: Path, number: signal.Signals) -> None:
    with attack.served(run) as (server, address), ExitStack() as stack:
        costly = attack.question(pictures=[attack.jpeg_of_scans(5000, 99)] * 16)
        long = attack.question(max_tokens=256, temperature=2, stream=True)
        for sent in (b"", b"POST /v1", attack.head(2**20) + b"{", attack.head(len(long)) + long) * 4:
            stack.enter_context(socket.create_connection(address, timeout=30)).sendall(sent)
        for _ in range(4):
            raw = stack.enter_context(socket.create_connection(address, timeout=30))
            raw.sendall(attack.head(len(costly)) + costly)
        assert attack.ask(address, attack.PLAIN, timeout=600)[0] == 200
        children = list(descendants(server.pid))
        assert len(children) >= 5
        server.send_signal(number)
        try:
            assert server.wait(timeout=60) == 128 + number  # 5 s at most on a machine that is not busy
        except subprocess.TimeoutExpired:
            pytest.fail("the server outlives the signal")
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
