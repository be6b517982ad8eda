"""The limits of asking a model: the pace, the budget, and the circuit breaker for failures in a row."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from mimicit.annotating.config import Prices
from mimicit.errors import AnnotateError

_MOST_TOKENS_USUALLY: Final = 1024  # of an answer, if the recipe sets no max_tokens


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens of one request: those sent, and those of its answer."""

    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        """Both together."""
        return self.input_tokens + self.output_tokens


class Pace:
    """Limits the requests, and the tokens, that are sent per minute; None: no limit.

    They are spaced evenly: each request delays the next by its share of a minute. All wait while the server asks for
    it.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._per_request_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token_s = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request = self._next_tokens = self._paused_until = 0.0

    async def wait(self, tokens: int) -> None:
        """Return when a request of about this many ``tokens`` may be sent."""
        now = time.monotonic()
        at = max(now, self._next_request, self._next_tokens)
        self._next_request = max(now, self._next_request) + self._per_request_s
        self._next_tokens = max(now, self._next_tokens) + tokens * self._per_token_s
        while (delay := max(at, self._paused_until) - time.monotonic()) > 0:
            await asyncio.sleep(delay)

    def correct(self, tokens: int) -> None:
        """Count ``tokens`` more (or fewer, if negative) than were announced to `wait`."""
        self._next_tokens += tokens * self._per_token_s

    def pause(self, seconds: float) -> None:
        """Send nothing for ``seconds``."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


class BudgetReachedError(AnnotateError):
    """The next request might cost more than is left."""


class Budget:
    """What may be spent in all, on answers that are kept: tokens, and US dollars by ``prices``; None: no limit.

    A request reserves the most that it may cost, as far as that is known, so that concurrent requests do not overdraw
    the budget; a request that does not fit waits until others have shown what they really cost.
    """

    def __init__(self, tokens: int | None, usd: float | None, prices: Prices, spent: Cost) -> None:
        self._tokens, self._usd, self.prices, self.spent = tokens, usd, prices, spent
        self._reserved = Cost(0, 0)
        self._changed = asyncio.Event()

    async def reserve(self, cost: Cost) -> None:
        """Set ``cost`` aside; `BudgetReachedError` if it is more than is left."""
        while self._exceeded(_sum(self.spent, self._reserved, cost)):
            if self._exceeded(_sum(self.spent, cost)) or not self._reserved.tokens:
                raise BudgetReachedError(self._reached())
            self._changed.clear()
            await self._changed.wait()
        self._reserved = _sum(self._reserved, cost)

    def charge(self, reserved: Cost, spent: Cost | None) -> None:
        """Replace what was ``reserved`` by what the request has ``spent``; None: it got no answer."""
        self._reserved = Cost(
            self._reserved.input_tokens - reserved.input_tokens, self._reserved.output_tokens - reserved.output_tokens
        )
        self.spent = _sum(self.spent, spent or Cost(0, 0))
        self._changed.set()

    @property
    def spent_usd(self) -> float:
        """US dollars spent so far."""
        return self.prices.of(self.spent.input_tokens, self.spent.output_tokens)

    def _exceeded(self, cost: Cost) -> bool:
        usd = self.prices.of(cost.input_tokens, cost.output_tokens)
        return (self._tokens is not None and cost.tokens > self._tokens) or (self._usd is not None and usd > self._usd)

    def _reached(self) -> str:
        limits = [f"{self._tokens:,} tokens"] if self._tokens is not None else []
        limits += [f"{self._usd:g} USD"] if self._usd is not None else []
        spent = f"{self.spent.tokens:,} tokens spent"
        return f"the budget of {' and '.join(limits)} is reached ({spent}); with a larger one, it goes on from there"


class Breaker:
    """Ends the run when ``most`` requests in a row have failed for good, with no success in between."""

    def __init__(self, most: int) -> None:
        self._most, self._failed = most, 0

    def succeeded(self) -> None:
        """Reset the count."""
        self._failed = 0

    def failed(self, why: str) -> None:
        """Count one failure; `AnnotateError` if it is the ``most``-th in a row."""
        self._failed += 1
        if self._failed >= self._most:
            raise AnnotateError(
                f"{self._failed} requests in a row have failed, the last with: {why}; what was answered is kept, and"
                " the same command goes on from there when the server is well"
            )


def estimated(body: bytes, max_tokens: object) -> Cost:
    """What a request may cost: a token for every 4 bytes of text, 1,000 for a picture, and the longest answer."""
    most = max_tokens if isinstance(max_tokens, int) else _MOST_TOKENS_USUALLY
    return Cost(_text_bytes(body) // 4 + 1, most)


def _text_bytes(body: bytes) -> int:
    place, pictures = 0, 0
    while (place := body.find(b'"data:image/', place)) >= 0:
        end = body.find(b'"', place + 1)
        pictures += end - place - 4 * 1_000  # a picture counts as a thousand tokens
        place = end
    return max(0, len(body) - pictures)


def _sum(*costs: Cost) -> Cost:
    return Cost(sum(cost.input_tokens for cost in costs), sum(cost.output_tokens for cost in costs))
