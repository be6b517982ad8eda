"""The routes: ``POST /v1/chat/completions``, ``GET /v1/models``, ``GET /health``; every error is OpenAI's JSON.

Bodies arrive within a deadline, and all together take a bounded amount of memory.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mimicit.web import host_name
from otter_train.serving.limits import ApiError, Limits
from otter_train.serving.worker import Ticket, Worker

Value = TypeVar("Value")

_LARGEST_AT_ONCE: Final = 8
"""How many bodies of the largest size may be in memory at the same time, which bounds the memory of all."""

_SMALL_BYTES: Final = 64 * 1024
"""Bytes of a body that do not count, so that a plain question is never refused; connections bound their number."""


def create_app(
    worker: Worker, *, model: str, api_key: str | None = None, hosts: Collection[str] | None = None
) -> Starlette:
    """The endpoint for ``worker``, whose model is called ``model``.

    With an ``api_key`` every request must carry it. ``hosts`` are the names that requests may be addressed to (None:
    any): without a key this keeps out web pages that point a name of their own at this machine.
    """
    endpoint = _Endpoint(worker, model, api_key, hosts)
    return Starlette(
        routes=[
            Route("/health", endpoint.health, methods=["GET"]),
            Route("/v1/models", endpoint.models, methods=["GET"]),
            Route("/v1/models/{name}", endpoint.model, methods=["GET"]),
            Route("/v1/chat/completions", endpoint.complete, methods=["POST"]),
        ],
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            ClientDisconnect: _client_left,
            Exception: _internal_error,
        },
    )


class _Endpoint:
    def __init__(self, worker: Worker, model: str, api_key: str | None, hosts: Collection[str] | None) -> None:
        self._worker = worker
        self._model = model
        self._api_key = api_key
        self._hosts = hosts
        self._started = int(time.time())
        self._bodies = _Bodies(worker.limits)

    async def health(self, request: Request) -> Response:
        """Says that the server is up."""
        self._check_host(request)
        return _json({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """The one model there is."""
        self._check_caller(request)
        return _json({"object": "list", "data": [self._description()]})

    async def model(self, request: Request) -> Response:
        """The model, if the path has its name."""
        self._check_caller(request)
        if request.path_params["name"] != self._model:
            raise ApiError(404, "model_not_found", f"there is only the model {self._model!r}")
        return _json(self._description())

    async def complete(self, request: Request) -> Response:
        """The answer to a conversation, whole or as server-sent events."""
        self._check_caller(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "unsupported_media_type", "send the request as application/json")
        async with self._bodies.body(request) as body:
            self._worker.admit()
            try:
                question, prompt = await _while_connected(request, self._worker.prepare(body, self._model))
                ticket = Ticket(prompt, question.options, question.stops)
                self._worker.submit(ticket)
            except BaseException:
                self._worker.release()
                raise
        answer = _Answer(ticket, self._model, self._worker, question.asked_tokens)
        if question.stream:
            return _Events(answer, usage=question.usage)
        try:
            return _json(await _while_connected(request, answer.whole()))
        finally:
            answer.leave()

    def _check_caller(self, request: Request) -> None:
        self._check_host(request)
        if self._api_key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._api_key.encode()):
            raise ApiError(401, "invalid_api_key", "send the key of this server as: Authorization: Bearer KEY")

    def _check_host(self, request: Request) -> None:
        if self._hosts is not None and host_name(request.headers.get("host", "")) not in self._hosts:
            raise ApiError(403, "invalid_host", "this server answers to local names only")

    def _description(self) -> dict[str, Any]:
        return {"id": self._model, "object": "model", "created": self._started, "owned_by": "otter_train"}


class _Bodies:
    """All the bodies that are in memory.

    If a new one needs more than there is, the body that has been arriving for the longest is given up: clients that
    send a request in one go are not kept out by those that send theirs byte by byte.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = _LARGEST_AT_ONCE * limits.body_bytes
        self._coming: dict[asyncio.Timeout, int] = {}  # bytes of each, the oldest first
        self._held = 0  # by those that are arriving, and those that are complete

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[list[bytes]]:
        """The body of ``request``, in the pieces in which it came, which counts until the block ends.

        `ApiError` if it is too large (413), too slow (408), ends early (400), or there is no room for it (429).
        """
        body = await self._read(request)
        held = _counted(sum(map(len, body)))
        self._held += held
        try:
            yield body
        finally:
            self._held -= held

    async def _read(self, request: Request) -> list[bytes]:
        most, seconds = self._limits.body_bytes, self._limits.body_seconds
        too_large = ApiError(413, "request_too_large", f"a request may have {most:,} bytes")
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > most:
            raise too_large
        body: list[bytes] = []  # joining 20 MiB takes longer than a question may wait
        size = 0
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                async for chunk in request.stream():
                    body.append(chunk)
                    size += len(chunk)
                    if size > most:
                        raise too_large
                    self._make_room(deadline, _counted(size))
        except TimeoutError:
            raise ApiError(408, "request_timeout", f"the body came too slowly; there are {seconds:g} s") from None
        except ClientDisconnect:
            raise ApiError(400, "client_disconnected", "the body ended early") from None
        finally:
            self._forget(deadline)
        return body

    def _make_room(self, deadline: asyncio.Timeout, held: int) -> None:
        if not held:
            return
        self._held += held - self._coming.get(deadline, 0)
        self._coming[deadline] = held
        while self._held > self._most:
            oldest = next(iter(self._coming))
            self._forget(oldest)
            if oldest is deadline:
                raise ApiError(429, "rate_limit_exceeded", "too many large requests are open; try again in a second")
            if not oldest.expired():
                oldest.reschedule(0)

    def _forget(self, deadline: asyncio.Timeout) -> None:
        self._held -= self._coming.pop(deadline, 0)


def _counted(size: int) -> int:
    return max(0, size - _SMALL_BYTES)


@dataclass
class _Answer:
    """One answer on its way out."""

    ticket: Ticket
    model: str
    worker: Worker
    asked_tokens: int | None

    def __post_init__(self) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())

    async def whole(self) -> dict[str, Any]:
        """The response object."""
        text = ""
        while True:
            piece = await self.ticket.next_piece()
            text += piece.text
            if piece.finish:
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "message": message, "finish_reason": piece.finish, "logprobs": None}
                return self._object("chat.completion", [choice]) | {"usage": self._usage(piece.tokens)}

    async def events(self, *, usage: bool) -> AsyncIterator[bytes]:
        """The response as server-sent events; an error in the middle is the last event."""
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            while True:
                piece = await self.ticket.next_piece()
                if piece.text:
                    yield self._chunk({"content": piece.text})
                if piece.finish:
                    break
            yield self._chunk({}, piece.finish)
            if usage:
                yield _event(self._object("chat.completion.chunk", []) | {"usage": self._usage(piece.tokens)})
            yield b"data: [DONE]\n\n"
        except ApiError as error:
            yield _event(error.to_json())

    def leave(self) -> None:
        """Give the place in the queue back: the answer is complete, or nobody listens any more."""
        self.ticket.cancelled = True
        self.worker.release()

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _event(self._object("chat.completion.chunk", [choice]))

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    def _usage(self, tokens: int) -> dict[str, int]:
        prompt = self.ticket.prompt_tokens
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        granted = self.ticket.options.max_new_tokens
        if self.asked_tokens is not None and granted < self.asked_tokens:
            usage["max_tokens"] = granted  # fewer than requested: as many as fit
        return usage


class _Events(StreamingResponse):
    """The events of an answer; gives its place back even if the client is gone before the first one."""

    def __init__(self, answer: _Answer, *, usage: bool) -> None:
        super().__init__(answer.events(usage=usage), media_type="text/event-stream")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.leave()


async def _while_connected(request: Request, work: Coroutine[Any, Any, Value]) -> Value:
    """The result of ``work``; cancelled if the client leaves (`ClientDisconnect`). The body must have been read."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(leave())
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait([working, leaving])


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json", headers=headers)


def _event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(error.status)
    return _json(error.to_json(), error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    message = f"{error.detail}: {request.method} {request.scope['path'][:80]}"
    return _json(ApiError(error.status_code, code, message).to_json(), error.status_code)


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _internal_error(request: Request, error: Exception) -> Response:
    return _json(ApiError(500, "internal_error", "the server failed; see its log").to_json(), 500)
