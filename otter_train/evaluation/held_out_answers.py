"""Answers to a few held-out questions, with more and more examples before them, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mimicit.records import Sample
from otter_train.evaluation.scores import with_shots
from otter_train.inference.answer_options import AnswerOptions
from otter_train.inference.answering import TrainedModel, answer_each
from otter_train.reporting.run_report import Shown

__all__ = ["answers_by_shots"]

_SHOTS: Final = (0, 1, 2, 4, 8)
_MAX_NEW_TOKENS: Final = 64


def answers_by_shots(trained: TrainedModel, samples: Sequence[Sample]) -> list[Shown]:
    """What the model says to each of ``samples`` with none, some and all of its examples shown before it."""
    shown = [Shown(sample, {}) for sample in samples]
    options = AnswerOptions(max_new_tokens=_MAX_NEW_TOKENS)
    for shots in _SHOTS:
        asked = [one for one in shown if shots <= len(one.sample.context)]
        prompts = [with_shots(one.sample, shots) for one in asked]
        for one, (_, answer) in zip(asked, answer_each(trained, prompts, options), strict=True):
            one.answers[shots] = answer
    return shown
