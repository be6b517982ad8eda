"""One request to a model over the OpenAI protocol, tried until it is answered, refused, or given up.

- 408, 409, 425, 429, 5xx, broken and stalled connections, and 200s that hold no answer are tried again, after a wait
  that doubles, drawn at random up to that; ``Retry-After`` is honoured, and makes all requests wait.
- 401, 403, 404 and redirects end the run: every other request would meet them too.
- Any other refusal (400, 413, 422, ...) concerns one request alone.

Only the base URL is contacted: redirects are not followed, proxies and passwords of the environment are not used. The
key is removed from all that comes back before it is shown or kept. Answers are read up to a limit.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import orjson

from mimicit.annotating.limits import Breaker, Budget, Cost, Pace, estimated
from mimicit.annotating.store import Answer
from mimicit.errors import AnnotateError, UsageError

if TYPE_CHECKING:
    import httpx2

_AGAIN: Final = frozenset({408, 409, 425, 429})
_FATAL: Final = {
    401: "the key is not accepted; set it in the environment (--key-env)",
    403: "the key may not do this",
    404: "there is no such address or model; look at --base-url and --model",
}
_MOST_ANSWER_BYTES: Final = 4 << 20
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 60.0
_LONGEST_ASKED_WAIT_S: Final = 600.0
_LEAST_KEY: Final = 6  # characters; a shorter one would be found in every text
_HIDDEN: Final = "[key]"
_DETAIL: Final = 300


class FailedError(Exception):
    """A request that ends without an answer: ``reason`` is a code, ``detail`` says it in words."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class _AgainError(Exception):
    """An attempt failed, but another may succeed; ``wait_s`` is the wait that the server asks for."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _TooLongError(Exception):
    """The answer is larger than the limit."""


def checked_base_url(url: str) -> str:
    """``url`` if it is a plain http(s) address; `UsageError` if not, or if it holds a password or a query."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("--base-url: must be an http or https address, such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("--base-url: must hold no password and no ?query; the key comes from the environment")
    return url


class ModelClient:
    """Sends at most ``concurrency`` requests at a time to ``base_url``; use as an async context manager.

    ``timeout_s`` is for one whole attempt, ``retries`` are the attempts after the first.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        concurrency: int,
        timeout_s: float,
        retries: int,
        pace: Pace,
        budget: Budget,
        breaker: Breaker,
    ) -> None:
        try:
            import httpx2
            from openai import AsyncOpenAI
        except ImportError:
            raise UsageError("asking a model needs the openai package: pip install 'mimicit[annotate]'") from None
        self.attempts = 0
        self._key, self._timeout_s, self._retries = key, timeout_s, retries
        self._pace, self._budget, self._breaker = pace, budget, breaker
        self._slots = asyncio.Semaphore(concurrency)
        http = httpx2.AsyncClient(
            transport=_bounded_transport(concurrency), timeout=timeout_s, follow_redirects=False, trust_env=False
        )
        self._client = AsyncOpenAI(base_url=base_url, api_key=key or "none", max_retries=0, http_client=http)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, body: bytes) -> Answer:
        """The answer to the request; `FailedError` if there is none, `AnnotateError` if the run must end."""
        cost = estimated(body, orjson.loads(body).get("max_tokens"))
        await self._budget.reserve(cost)
        spent = None
        try:
            async with self._slots:
                answer = await self._tried(body, cost)
            spent = Cost(answer.input_tokens, answer.output_tokens)
            self._pace.correct(spent.tokens - cost.tokens)
            return answer
        finally:
            self._budget.charge(cost, spent)

    async def _tried(self, body: bytes, cost: Cost) -> Answer:
        attempt = 0
        while True:
            await self._pace.wait(cost.tokens)
            try:
                answer = await self._once(body, cost)
            except _AgainError as error:
                if attempt >= self._retries:
                    why = f"{error}, after {attempt + 1} attempts"
                    self._breaker.failed(why)
                    raise FailedError("no_answer", why) from None
                await self._wait(attempt, error.wait_s)
                attempt += 1
            except FailedError as error:
                self._breaker.failed(error.detail)
                raise
            else:
                self._breaker.succeeded()
                return answer

    async def _once(self, body: bytes, cost: Cost) -> Answer:
        import httpx2
        import openai

        self.attempts += 1
        options: Any = {"headers": {"Content-Type": "application/json", "Accept-Encoding": "identity"}}
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.post(
                    "/chat/completions", content=body, cast_to=httpx2.Response, options=options
                )
        except openai.APIStatusError as error:
            raise self._refused(error.status_code, error.response.headers, error.response.content) from None
        except (TimeoutError, openai.APITimeoutError):
            raise _AgainError(f"no whole answer within {self._timeout_s:g} s") from None
        except _TooLongError:
            fault = f"the answer has more than {_MOST_ANSWER_BYTES:,} bytes"
            return Answer(fault=fault, input_tokens=cost.input_tokens, output_tokens=cost.output_tokens)
        except openai.APIConnectionError as error:
            raise _AgainError(self._without_key(f"the connection failed: {error.__cause__ or error}")) from None
        except (openai.OpenAIError, httpx2.HTTPError, OSError) as error:
            raise _AgainError(self._without_key(f"{type(error).__name__}: {error}")) from None
        try:
            return answer_of_body(response.content, cost, hide=self._without_key)
        except ValueError as error:
            raise _AgainError(str(error)) from None

    def _refused(self, status: int, headers: Mapping[str, str], content: bytes) -> Exception:
        said = " ".join(self._without_key(content[: 4 * _DETAIL].decode("utf-8", "replace")).split())[:_DETAIL]
        if status in _AGAIN or status >= 500:
            return _AgainError(f"HTTP {status}", _asked_wait(headers))
        if 300 <= status < 400:
            place = self._without_key(headers.get("location", "elsewhere"))[:_DETAIL]
            return AnnotateError(f"the server redirects to {place}; give that as --base-url if it is meant")
        if status in _FATAL:
            return AnnotateError(f"HTTP {status}: {_FATAL[status]}; the server says: {said}")
        return FailedError("refused_request", f"HTTP {status}: {said}")

    async def _wait(self, attempt: int, asked_s: float | None) -> None:
        if asked_s is not None and asked_s > _LONGEST_ASKED_WAIT_S:
            raise AnnotateError(
                f"the server asks to wait for {asked_s:,.0f} s; what was answered is kept, and the same command goes"
                " on from there"
            )
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt)
        wait_s = random.uniform(longest / 2, longest)
        if asked_s is not None:
            self._pace.pause(asked_s)
            wait_s = asked_s + random.uniform(0, _FIRST_WAIT_S)
        await asyncio.sleep(wait_s)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, _HIDDEN) if len(self._key) >= _LEAST_KEY else text


def answer_of_body(content: bytes, cost: Cost, *, hide: Any = str) -> Answer:
    """The answer in the body of a response; `ValueError` says why there is none. ``hide`` removes the key from texts.

    If the server counts no tokens, those of the request are taken from ``cost``, those of the answer from its length.
    """
    try:
        body = orjson.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = _text_of(message.get("content")), _text_of(message.get("refusal"))
        finish = str(choice.get("finish_reason") or "")[:40]
    except orjson.JSONDecodeError:
        raise ValueError("the answer is no JSON") from None
    except (KeyError, IndexError, TypeError, AttributeError):
        error = body.get("error") if isinstance(body, dict) else None
        said = hide(orjson.dumps(error).decode())[:_DETAIL] if error else "it has no choices"
        raise ValueError(f"the answer holds no text: {said}") from None
    if not text and not refusal:
        raise ValueError("the answer holds no text: it is empty")
    used = body.get("usage")
    used = used if isinstance(used, dict) else {}
    return Answer(
        text=hide(_sound(text)),
        refusal=hide(_sound(refusal)),
        finish=_sound(finish),
        input_tokens=_count(used.get("prompt_tokens"), cost.input_tokens),
        output_tokens=_count(used.get("completion_tokens"), len(text.encode("utf-8", "replace")) // 4 + 1),
    )


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if part.get("type") in ("text", "output_text"))
    if content is not None and not isinstance(content, str):
        raise TypeError
    return content or ""


def _sound(text: str) -> str:
    """``text`` without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _count(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else otherwise


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After`` asks for, as a number or a date; None if it is neither."""
    milliseconds = headers.get("retry-after-ms", "")
    if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", milliseconds):
        return float(milliseconds) / 1000
    said = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", said):
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _bounded_transport(connections: int) -> httpx2.AsyncBaseTransport:
    """The usual transport, with answers that end in `_TooLongError` beyond a limit.

    Each connection has a pool of its own, because the usual pool looks through all connections for every request, which
    at 256 of them takes longer than all the rest.
    """
    import httpx2

    class Bounded(httpx2.AsyncBaseTransport):
        def __init__(self) -> None:
            context = httpx2.create_ssl_context()
            limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1)
            self._all = [httpx2.AsyncHTTPTransport(verify=context, limits=limits) for _ in range(connections)]
            self._free = list(self._all)

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            transport = self._free.pop()  # never empty: the client makes no more requests at a time
            try:
                response = await transport.handle_async_request(request)
            except BaseException:
                self._free.append(transport)
                raise
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = Stream(response.stream, transport, self._free)
            return response

        async def aclose(self) -> None:
            for transport in self._all:
                await transport.aclose()

    class Stream(httpx2.AsyncByteStream):
        def __init__(
            self, stream: httpx2.AsyncByteStream, transport: httpx2.AsyncHTTPTransport | None, free: list[Any]
        ) -> None:
            self._stream, self._transport, self._free = stream, transport, free

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in self._stream:
                size += len(part)
                if size > _MOST_ANSWER_BYTES:
                    raise _TooLongError
                yield part

        async def aclose(self) -> None:
            try:
                await self._stream.aclose()
            finally:
                if self._transport is not None:
                    self._free.append(self._transport)
                    self._transport = None

    return Bounded()
