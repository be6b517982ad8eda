"""What every server of ours does with connections that are slow, many, or gone; over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="comes with the extra 'view'")

import uvicorn

from mimicit.web.server import ConnectionLimits, is_in_crumbs, server_config

Address = tuple[str, int]
PLAIN = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF_A_HEAD = b"GET / HTTP/1.1\r\nHost: loc"
BEGUN = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"


class App:
    """Answers ``/`` at once, ``/wait`` never, ``/much`` with 64 MB; reads the body of a POST."""

    def __init__(self) -> None:
        self.entered, self.left, self.through = (threading.Event() for _ in range(3))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        more = scope["method"] == "POST"
        while more:
            message = await receive()
            more = message.get("more_body", False)
        if scope["path"] == "/wait":
            self.entered.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            return
        pieces = 1024 if scope["path"] == "/much" else 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"keep-alive")]})
        for _ in range(pieces):
            await send({"type": "http.response.body", "body": b"x" * (65_536 if pieces > 1 else 2), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.through.set()


@contextmanager
def running(limits: ConnectionLimits) -> Iterator[tuple[App, Address]]:
    app = App()
    server = uvicorn.Server(server_config(app, limits, port=0, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    try:
        yield app, ("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


def ended(raw: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    raw.settimeout(30)
    found = b""
    try:
        while piece := raw.recv(65_536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def first_line(address: Address, request: bytes = PLAIN) -> bytes:
    with socket.create_connection(address, timeout=30) as raw:
        raw.sendall(request)
        return raw.recv(100).partition(b"\r\n")[0]


def is_refused(raw: socket.socket, data: bytes, *, times: int, pause: float = 0.0) -> bool:
    """Whether the server ends the connection while ``data`` is sent so many times."""
    try:
        for _ in range(times):
            raw.sendall(data)
            threading.Event().wait(pause)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("sent", [b"", b"G", HALF_A_HEAD, PLAIN, PLAIN + HALF_A_HEAD, BEGUN + b"x" * 100 + b"POST"])
def test_whoever_does_not_go_on_is_not_waited_for(sent: bytes) -> None:
    with (
        running(ConnectionLimits(head_seconds=0.3)) as (_, address),
        socket.create_connection(address, timeout=30) as raw,
    ):
        raw.sendall(sent)
        answer = ended(raw)
        assert answer.count(b"200 OK") == (sent.startswith((PLAIN, BEGUN)))


def test_a_head_that_comes_byte_by_byte_is_not_waited_for() -> None:
    with (
        running(ConnectionLimits(head_seconds=0.5)) as (_, address),
        socket.create_connection(address, timeout=30) as raw,
    ):
        raw.sendall(HALF_A_HEAD)
        assert is_refused(raw, b"x", times=1000, pause=0.05)


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD, PLAIN, BEGUN + b"x"])
def test_more_connections_than_allowed_keep_nobody_out(sent: bytes) -> None:
    with running(ConnectionLimits(connections=8)) as (_, address), ExitStack() as stack:
        held = []
        for _ in range(40):
            held.append(stack.enter_context(socket.create_connection(address, timeout=30)))
            held[-1].sendall(sent)
            assert first_line(address) == b"HTTP/1.1 200 OK"
        ended(held[0])  # the one that had been waiting for the longest


def test_those_who_are_being_answered_are_not_given_up() -> None:
    with running(ConnectionLimits(connections=4)) as (app, address), ExitStack() as stack:
        answering = stack.enter_context(socket.create_connection(address, timeout=30))
        answering.sendall(PLAIN.replace(b"/ ", b"/wait ", 1))
        assert app.entered.wait(30)
        for _ in range(20):
            stack.enter_context(socket.create_connection(address, timeout=30)).sendall(HALF_A_HEAD)
        assert first_line(address) == b"HTTP/1.1 200 OK"
        assert not app.left.is_set()
        answering.close()
        assert app.left.wait(30)


@pytest.mark.parametrize("ahead", [b"", PLAIN, HALF_A_HEAD, PLAIN * 5000])
def test_a_client_that_leaves_is_seen_also_when_it_has_sent_more(ahead: bytes) -> None:
    with running(ConnectionLimits()) as (app, address):
        with socket.create_connection(address, timeout=30) as raw:
            raw.sendall(PLAIN.replace(b"/ ", b"/wait ", 1) + ahead)
            assert app.entered.wait(30)
            raw.sendall(ahead)
        assert app.left.wait(30)


def test_a_client_that_does_not_read_is_given_up() -> None:
    with running(ConnectionLimits(write_seconds=0.3)) as (app, address), socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(address)
        raw.sendall(PLAIN.replace(b"/ ", b"/much ", 1))
        assert app.through.wait(30)
        assert len(ended(raw)) < 64 * 2**20


@pytest.mark.parametrize("size", [1, 7, 60])
def test_a_body_in_crumbs_is_refused(size: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running(ConnectionLimits()) as (_, address), socket.create_connection(address, timeout=30) as raw:
        raw.sendall(head)
        assert is_refused(raw, (b"%x\r\n" % size + b"x" * size + b"\r\n") * 100, times=10_000)
        assert first_line(address, head + (b"2000\r\n" + b"x" * 8192 + b"\r\n") * 1000 + b"0\r\n\r\n").endswith(b"OK")


@pytest.mark.parametrize(
    "request_",
    [
        PLAIN,
        PLAIN.replace(b"\r\n", b"\n"),
        BEGUN + b"x" * 100,
        BEGUN.replace(b"Content-Length: 100", b"content-length:0"),
        BEGUN.replace(b"100", b"200000") + b"x" * 200_000,
        BEGUN.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
        + b"5\r\n0\r\n\r\n\r\n2;a=b\r\nxx\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 15_000 + b"\r\n\r\n",
    ],
)
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_a_request_is_answered_in_whatever_pieces_it_comes(request_: bytes, size: int) -> None:
    pieces = [request_[start : start + size] for start in range(0, len(request_), size)]
    with (
        running(ConnectionLimits()) as (_, address),
        socket.create_connection(address, timeout=30) as raw,
    ):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in [b"".join(pieces)] if len(pieces) > 20_000 else pieces:
            raw.sendall(piece)
        assert raw.recv(100).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00",
        b"\r\n\r\n\r\n\r\n",
        b"nothing of that kind\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_no_request_is_refused_at_once(sent: bytes) -> None:
    with running(ConnectionLimits(head_seconds=1000)) as (_, address):
        assert first_line(address, sent).startswith(b"HTTP/1.1 4")


def test_a_body_that_waits_to_be_asked_for_is_asked_for() -> None:
    with running(ConnectionLimits()) as (_, address), socket.create_connection(address, timeout=30) as raw:
        raw.sendall(BEGUN.replace(b"Content", b"Expect: 100-continue\r\nContent"))
        assert raw.recv(100).startswith(b"HTTP/1.1 100")
        raw.sendall(b"x" * 100)
        assert raw.recv(100).startswith(b"HTTP/1.1 200")


def test_a_body_that_does_not_come_is_the_application_s_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimicit.web.server._BODY_S", 0.1)
    with (
        running(ConnectionLimits(head_seconds=0.2)) as (_, address),
        socket.create_connection(address, timeout=30) as raw,
    ):
        raw.sendall(BEGUN)
        threading.Event().wait(0.5)
        raw.sendall(b"x" * 100)
        assert raw.recv(100).startswith(b"HTTP/1.1 200")


def test_what_never_becomes_a_request_makes_nothing_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr("mimicit.web.server.Arrival._hand_over", made.append)
    with running(ConnectionLimits(connections=4)) as (_, address), ExitStack() as stack:
        for sent in (b"", HALF_A_HEAD, BEGUN, BEGUN + b"x" * 99) * 5:
            raw = stack.enter_context(socket.create_connection(address, timeout=30))
            raw.sendall(sent)
    assert not made


@pytest.mark.parametrize("size", [1, 7, 60])
def test_crumbs_are_told_from_pieces(size: int) -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n" % size + b"x" * size + b"\r\n"
    assert not is_in_crumbs(head + chunk * 200 + b"0\r\n\r\n")
    assert is_in_crumbs(head + chunk * 1000)
    assert not is_in_crumbs(head + b"10000\r\n" + chunk * 1000)
    assert not is_in_crumbs(head + b"2000\r\n" + b"\r\n" * 4096 + b"\r\n0\r\n\r\n")
    assert not is_in_crumbs(head + b"no number\r\n" * 1000)
