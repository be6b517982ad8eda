"""Batch files: the JSON Lines of the batch API, for those who can wait a day for half the price.

One file of requests has 50,000 lines and 190 MB at most; more make ``name-2.jsonl``, ``name-3.jsonl``, ... A request is
named by its hash (``custom_id``), so the order and the number of files that come back do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from mimicit.annotating.asking import NotAskedError
from mimicit.annotating.client import answer_of_body
from mimicit.annotating.limits import Cost
from mimicit.annotating.store import Answer, Store, request_hash
from mimicit.errors import AnnotateError
from mimicit.shards.files import open_regular, publish

_MOST_REQUESTS: Final = 50_000
_MOST_BYTES: Final = 190_000_000
_MOST_LINE: Final = 64 << 20
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class BatchWriter:
    """Writes requests to ``path`` instead of sending them; the files appear whole if it is closed without an error."""

    def __init__(self, path: Path) -> None:
        self._path, self._stack = path, ExitStack()
        self._file: BinaryIO | None = None
        self._written: set[str] = set()
        self._left = (0, 0)
        self.paths: list[Path] = []

    def __enter__(self) -> BatchWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._written)

    async def send(self, body: bytes) -> Answer:
        """Write the request, once; always raises `NotAskedError`."""
        request = request_hash(body)
        if request not in self._written:
            self._written.add(request)
            head = orjson.dumps({"custom_id": request, "method": "POST", "url": "/v1/chat/completions"})
            line = head[:-1] + b',"body":' + body + b"}\n"
            requests, room = self._left
            if self._file is None or not requests or room < len(line):
                self._file, requests, room = self._next_file(), _MOST_REQUESTS, _MOST_BYTES
            self._file.write(line)
            self._left = requests - 1, room - len(line)
        raise NotAskedError

    def _next_file(self) -> BinaryIO:
        number = len(self.paths) + 1
        path = self._path if number == 1 else self._path.with_name(f"{self._path.stem}-{number}{self._path.suffix}")
        self.paths.append(path)
        return self._stack.enter_context(publish(path, path.with_name(f".{path.name}.tmp")))


async def take_in(paths: Iterable[Path], store: Store) -> dict[str, int]:
    """Keep the answers in result files of the batch API; return how many were kept, known already, and failed.

    `AnnotateError` if a file cannot be read, or a line of it is not a result.
    """
    counts = {"kept": 0, "known": 0, "failed": 0}
    for path in paths:
        try:
            with open_regular(path) as file:
                number = 0
                while line := file.readline(_MOST_LINE):
                    number += 1
                    if line.strip():
                        counts[await _kept(line, f"{path}:{number}", store)] += 1
        except OSError as error:
            raise AnnotateError(f"{path}: cannot be read ({error.strerror or error})") from None
    return counts


async def _kept(line: bytes, place: str, store: Store) -> str:
    try:
        entry = orjson.loads(line)
        request, response = entry["custom_id"], entry.get("response")
        if not isinstance(request, str) or not _HASH.fullmatch(request):
            raise TypeError
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise AnnotateError(f"{place}: no answer to a request of --batch-out; give the file of results") from None
    if request in store:
        return "known"
    if not isinstance(response, dict) or response.get("status_code") != 200:
        return "failed"
    try:
        answer = answer_of_body(orjson.dumps(response.get("body")), Cost(0, 0))
    except ValueError:
        return "failed"
    await store.keep(request, answer)
    return "kept"
