"""Answers of a trained model.

`AnswerOptions` says how an answer is chosen, and `ModelOptions` where the model is. No torch here, so that command
lines can show and check their options.
"""

from __future__ import annotations

from dataclasses import dataclass

from mimicit.errors import UsageError
from mimicit.options import check, option

__all__ = ["AnswerOptions", "ModelOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Where the parts of a trained model lie that its checkpoint does not hold, and where it runs; see
    `otter_train.inference.answering.load_trained_model`.
    """

    language_model: str | None = option(None, "Where the frozen language model lies now, if it was moved.")
    vision_model: str | None = option(None, "Where the frozen vision model lies now, if it was moved.")
    device: str = option("auto", "Device to run on: auto, cpu, cuda, cuda:1, ...")


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

    max_new_tokens: int = option(128, "Longest answer, in tokens.", least=1)
    temperature: float = option(0.0, "Sampling temperature; 0: the likeliest token.", least=0, most=100)
    top_p: float = option(1.0, "Sample among the likeliest tokens of this total probability.", above=0, most=1)
    seed: int = option(0, "Seed of the sampling.", least=0)
    beams: int = option(1, "Beams of a beam search for the likeliest answer; 1 for none.", least=1)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        check(self)
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
