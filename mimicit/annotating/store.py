"""The answers that were paid for: one append-only file, a line each, kept before anything else is done with them.

A line is the first 16 hex digits of the SHA-256 of what follows, a space, and the answer as canonical JSON. Answers
that arrive together are written and synced together; only then is any of them used. One process holds the file; a line
that a killed process left half-written is cut when the file is opened again, and damage in the middle is reported and
never skipped, because it was paid for. Memory: about 200 bytes an answer, its hash and where it stands.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson

from mimicit.errors import AnnotateError, DamagedStoreError
from mimicit.schema import canonical_json
from mimicit.shards.files import sync_folder

_CHECK_DIGITS: Final = 16
_MOST_LINE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said: its ``text``, or the words of its ``refusal``; ``finish`` is why it stopped.

    If it could not be kept whole (too large), ``fault`` says so. Tokens are those that the server counted, or
    else an estimate.
    """

    text: str = ""
    refusal: str = ""
    finish: str = ""
    fault: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


def request_hash(body: bytes) -> str:
    """The name of a request: the SHA-256 of its canonical JSON, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


class Store:
    """The answers in the file ``path``, which is made if it is missing, and locked until `close`.

    ``cut_bytes`` were cut from its end. ``input_tokens`` and ``output_tokens`` are sums over all answers.
    `AnnotateError` if another process holds it, `DamagedStoreError` if a line does not match its checksum.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut_bytes = self.input_tokens = self.output_tokens = 0
        self._places: dict[bytes, int] = {}
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._broken: AnnotateError | None = None
        is_new = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = self._read()
            if is_new:
                sync_folder(path.parent)
        except BlockingIOError:
            os.close(self._descriptor)
            raise AnnotateError(f"{path}: another mimicit annotate holds it; wait for it to end") from None
        except BaseException:
            os.close(self._descriptor)
            raise

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, request: str) -> bool:
        return bytes.fromhex(request) in self._places

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; everything that `keep` returned for is on disk."""
        os.close(self._descriptor)

    def get(self, request: str) -> Answer | None:
        """The answer to the request of this hash, if there is one; `DamagedStoreError` if it has changed since."""
        place = self._places.get(bytes.fromhex(request))
        if place is None:
            return None
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(place)
            line = file.readline(_MOST_LINE_BYTES)
        entry = _parsed(line)
        if entry is None or entry.pop("request") != request:
            raise DamagedStoreError(f"{self.path}: the line at byte {place:,} has changed since it was read")
        return Answer(**entry)

    async def keep(self, request: str, answer: Answer) -> None:
        """Return once ``answer`` is on disk; the first answer to a request is kept, and no other.

        `AnnotateError` if the disk refuses: nothing more is kept then, and all that was kept is sound.
        """
        if self._broken is not None:
            raise self._broken
        if request in self:
            return
        line = _line(request, answer)
        if len(line) > _MOST_LINE_BYTES:
            raise AnnotateError(f"{self.path}: an answer of {len(line):,} bytes is more than {_MOST_LINE_BYTES:,}")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, done))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await asyncio.shield(done)
        self.input_tokens += answer.input_tokens
        self.output_tokens += answer.output_tokens

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._append, b"".join(line for line, _ in batch))
            except OSError as error:
                why = error.strerror or str(error)
                self._broken = AnnotateError(
                    f"{self.path}: {why}; what was kept before is sound: fix this and run the same command again"
                )
                for _, done in batch + self._waiting:
                    done.set_exception(self._broken)
                self._waiting = []
                return
            for line, done in batch:
                self._note(line, self._end)
                self._end += len(line)
                done.set_result(None)

    def _append(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._end + written)
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._end)  # freeing space needs none
            raise

    def _note(self, line: bytes, place: int) -> None:
        entry = _parsed(line)
        assert entry is not None
        self._places.setdefault(bytes.fromhex(entry["request"]), place)

    def _read(self) -> int:
        """Read the whole file and cut an unfinished line at its end; return where the sound lines end."""
        place, torn = 0, -1
        for number, line in enumerate(self._lines(), 1):
            entry = _parsed(line) if torn < 0 else None
            if entry is not None:
                self._places.setdefault(bytes.fromhex(entry["request"]), place)
                self.input_tokens += entry["input_tokens"]
                self.output_tokens += entry["output_tokens"]
            elif line.endswith(b"\n"):  # an unfinished line has no line break
                raise DamagedStoreError(
                    f"{self.path}: line {number} (byte {place:,}) is damaged; put back a copy of the file, or delete"
                    f" that line (sed -i {number}d), and only its answer is asked for again"
                )
            elif torn < 0:
                torn = place
            place += len(line)
        if torn < 0:
            return place
        self.cut_bytes = place - torn
        os.ftruncate(self._descriptor, torn)
        os.fsync(self._descriptor)
        return torn

    def _lines(self) -> Iterator[bytes]:
        with os.fdopen(os.dup(self._descriptor), "rb", buffering=1 << 20) as file:
            file.seek(0)
            while line := file.readline(_MOST_LINE_BYTES):
                yield line


def _line(request: str, answer: Answer) -> bytes:
    body = canonical_json({"request": request, **asdict(answer)})
    return b"%s %s\n" % (_check(body), body)


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:_CHECK_DIGITS].encode()


_FIELDS: Final = frozenset(("request", *Answer.__slots__))


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The entry of a line, or None if it is not whole."""
    check, space, body = line.partition(b" ")
    if not space or not body.endswith(b"\n") or _check(body[:-1]) != check:
        return None
    entry: dict[str, Any] = orjson.loads(body)
    return entry if entry.keys() == _FIELDS else None
