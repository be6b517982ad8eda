"""A local HTTP server of files with byte ranges, whose answers can be spoilt."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

Fault = Literal["", "503", "short", "stall", "drip", "reset", "other-range", "no-ranges"]


class RangeServer:
    """Serves ``folder`` at ``url``. ``fault(path, number)`` says how the number-th request for a path goes wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.fault: Callable[[str, int], Fault] = lambda path, number: ""
        self.requests: list[tuple[str, str]] = []  # path and range
        self.stop = threading.Event()


@contextmanager
def range_server(folder: Path) -> Iterator[RangeServer]:
    served = RangeServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            wanted = self.headers.get("Range", "")
            number = sum(1 for other, _ in served.requests if other == path)
            served.requests.append((path, wanted))
            fault = served.fault(path, number)
            if fault == "reset":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if path.startswith("moved/"):
                self.answer(302, {"Location": f"/{path.removeprefix('moved/')}"}, b"")
                return
            if fault == "503":
                self.answer(503, {}, b"try later")
                return
            file = served.folder / path
            if not file.is_file():
                self.answer(404, {}, b"")
                return
            data = file.read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
            if found is None or fault == "no-ranges":
                self.answer(200, {}, data)
                return
            start, end = int(found[1]), min(int(found[2]) + 1, len(data))
            said = start + 1 if fault == "other-range" else start
            self.body(206, {"Content-Range": f"bytes {said}-{end - 1}/{len(data)}"}, data[start:end], fault)

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.body(status, headers, body, "")

        def body(self, status: int, headers: dict[str, str], body: bytes, fault: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                if fault == "short":
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                elif fault == "stall":
                    self.wfile.write(body[:1])
                    served.stop.wait(30)
                elif fault == "drip":
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.02)
                        if served.stop.is_set():
                            return
                else:
                    self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has given up, as it should

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # connections that the client drops in the middle

    server = Server(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
