"""How an answer is chosen: `AnswerOptions`. No torch here, so that command lines can check what they were given."""

from __future__ import annotations

from dataclasses import dataclass

from mimicit.errors import UsageError

__all__ = ["AnswerOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """The likeliest token each time, unless ``temperature`` or ``beams`` say otherwise.

    ``temperature`` above 0 samples, among the likeliest tokens that together have at least the probability
    ``top_p``; the draws depend on ``seed`` and on nothing beside the row. ``beams`` above 1 keeps that many beginnings
    and takes the one with the best mean log-probability.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    beams: int = 1

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.beams < 1:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens}, --beams {self.beams}: must be at least 1")
        if not 0 <= self.temperature <= 100:
            raise UsageError(f"--temperature {self.temperature}: must be between 0 and 100")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p}: must be above 0 and at most 1")
        if self.beams > 1 and self.temperature > 0:
            raise UsageError("--beams looks for the likeliest answer and --temperature draws one; give one of them")
