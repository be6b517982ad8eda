"""What a user may set about asking a model; nothing here is needed to ask, so that the command line starts quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from mimicit.errors import UsageError
from mimicit.options import check, option


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per million tokens; zero if not given."""

    input_usd: float = option(0.0, "US dollars per million tokens sent.", least=0, key="price_in")
    output_usd: float = option(0.0, "US dollars per million tokens received.", least=0, key="price_out")

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """The price in US dollars."""
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How fast, and for how much, the model is asked; None: no limit. None of these affects a pair."""

    concurrency: int = option(16, "Concurrent requests.", least=1, most=4096)
    requests_per_minute: float | None = option(None, "Most requests per minute.", above=0)
    tokens_per_minute: float | None = option(None, "Most tokens per minute.", above=0)
    budget_tokens: int | None = option(None, "Stop before answers cost more tokens.", least=1)
    budget_usd: float | None = option(None, "Stop before answers cost more USD.", above=0)
    prices: Prices = field(default_factory=Prices)
    timeout_s: float = option(120.0, "Seconds per try.", least=0.1, key="timeout")
    retries: int = option(6, "Tries after the first.", least=0, most=100)

    def __post_init__(self) -> None:
        check(self)
        if self.budget_usd is not None and self.prices == Prices():
            prices = "add --price-in and --price-out, in dollars a million tokens"
            raise UsageError(f"--budget-usd needs the prices: {prices}")
