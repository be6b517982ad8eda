"""Answers of a trained model.

`AnswerOptions` says how an answer is chosen. No torch here, so that command lines can check what they were given.
"""

from __future__ import annotations

from dataclasses import dataclass

from mimicit.errors import UsageError

__all__ = ["AnswerOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """The likeliest token each time, unless ``temperature`` or ``beams`` say otherwise.

    ``temperature`` above 0 samples, among the likeliest tokens that together have at least the probability
    ``top_p``; the draws depend on ``seed`` and on no other row. ``beams`` above 1 is the number of beams of a search
    for the answer with the best mean log-probability.

    The penalties make repeated tokens less likely (more likely, if they are negative or below 1): ``presence_penalty``
    is subtracted once from the logits of tokens in the answer so far, ``frequency_penalty`` once per occurrence; logits
    of tokens in prompt or answer are divided by ``repetition_penalty`` (negative ones are multiplied). Tokens that end
    an answer are exempt.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    beams: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.beams < 1:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens}, --beams {self.beams}: must be at least 1")
        if not 0 <= self.temperature <= 100:
            raise UsageError(f"--temperature {self.temperature}: must be between 0 and 100")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p}: must be above 0 and at most 1")
        if self.beams > 1 and self.temperature > 0:
            raise UsageError("--beams looks for the likeliest answer and --temperature draws one; give one of them")
        if not self.repetition_penalty > 0:
            raise UsageError(f"repetition_penalty {self.repetition_penalty}: must be above 0")
        if self.beams > 1 and self.penalises:
            raise UsageError("beams take no penalties")

    @property
    def penalises(self) -> bool:
        """Whether any of the penalties changes anything."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1)
