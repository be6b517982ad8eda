"""From one job to its outcome: ask, read, ask once more where it cannot be read, and let the gates of pairs decide.

Everything here is a function of the job and of the answers in the store; so a run that is repeated, in whatever order
the answers came, ends with the same outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from mimicit.annotating.answers import Pair, UnreadableError, pairs_of
from mimicit.annotating.client import FailedError
from mimicit.annotating.gates import fault_of_pair, is_refusal
from mimicit.annotating.judge import Judge, judging_request, scores_of
from mimicit.annotating.recipe import Recipe
from mimicit.annotating.store import Answer, Store, request_hash
from mimicit.annotating.wording import Job, asked_again, wanted_pairs

__all__ = ["RECORD_REASONS", "Asker", "Dropped", "NotAskedError", "Outcome", "outcome_of"]

Send = Callable[[bytes], Awaitable[Answer]]

RECORD_REASONS: Final = {
    "unfit": "the recipe does not ask about such records",
    "no_answer": "the server gave none, in all attempts",
    "refused_request": "the server refused this request",
    "not_asked": "the budget was spent before",
    "refusal": "the model declined",
    "unreadable": "not in the form asked for, also when asked again",
    "cut_off": "the answer reached max_tokens and cannot be read",
    "too_long": "a record or an answer too large to be used",
    "no_pair_left": "no pair passed the gates",
}
"""Why a record has no pair, beside the reasons for which a build rejects records and pictures."""

_CUT_OFF: Final = "length"


class NotAskedError(Exception):
    """The request was not made, for reasons that lie not in it: the budget is spent, or nobody asks now."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A pair that a gate has stopped."""

    reason: str
    detail: str
    instruction: str
    answer: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a job: the ``pairs`` so far, those ``dropped``, or why there is none; ``requests`` are hashes."""

    requests: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    reason: str = ""
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """As one line of the file in which outcomes wait."""
        return {
            "requests": self.requests,
            "pairs": [[pair.instruction, pair.answer, list(pair.choices)] for pair in self.pairs],
            "scores": self.scores,
            "dropped": [[one.reason, one.detail, one.instruction, one.answer] for one in self.dropped],
            "reason": self.reason,
            "detail": self.detail,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Outcome:
        """The inverse of `to_json`."""
        pairs = [Pair(question, answer, tuple(choices)) for question, answer, choices in value["pairs"]]
        return cls(**{**value, "pairs": pairs, "dropped": [Dropped(*one) for one in value["dropped"]]})


class Asker:
    """Answers from the store; what is not there is sent, and kept before anybody sees it.

    Equal requests that wait at the same time are sent once.
    """

    def __init__(self, store: Store, send: Send) -> None:
        self._store, self._send = store, send
        self._sent: dict[str, asyncio.Task[Answer]] = {}

    async def __call__(self, body: bytes) -> tuple[str, Answer]:
        """The hash of the request and its answer; errors are those of ``send`` and of the store."""
        request = request_hash(body)
        kept = self._store.get(request)
        if kept is not None:
            return request, kept
        if request not in self._sent:
            self._sent[request] = asyncio.create_task(self._asked(request, body))
        try:
            return request, await self._sent[request]
        finally:
            self._sent.pop(request, None)

    async def _asked(self, request: str, body: bytes) -> Answer:
        answer = await self._send(body)
        await self._store.keep(request, answer)
        return answer


async def outcome_of(job: Job, body: bytes, recipe: Recipe, ask: Asker, judge: Judge | None = None) -> Outcome:
    """The outcome of ``job``, whose request is ``body``; `NotAskedError` and `AnnotateError` pass through.

    With a ``judge``, it is asked about the pairs that the gates let pass.
    """
    outcome = Outcome()
    try:
        request, answer = await ask(body)
        outcome.requests.append(request)
        if _is_final(answer, outcome):
            return outcome
        try:
            pairs = pairs_of(answer.text, recipe)
        except UnreadableError as fault:
            if is_refusal(answer.text):
                outcome.reason, outcome.detail = "refusal", answer.text[:200]
                return outcome
            if answer.finish == _CUT_OFF:
                outcome.reason, outcome.detail = "cut_off", f"{fault}; it was cut at max_tokens, raise it in [request]"
                return outcome
            request, answer = await ask(asked_again(body, answer.text, str(fault), recipe))
            outcome.requests.append(request)
            if _is_final(answer, outcome):
                return outcome
            pairs = pairs_of(answer.text, recipe)
    except UnreadableError as fault:
        outcome.reason, outcome.detail = "unreadable", f"{fault}, also when asked again"
    except FailedError as error:
        outcome.reason, outcome.detail = error.reason, error.detail
    else:
        _sort(pairs, job, recipe, outcome)
        if judge is not None and outcome.pairs:
            await _judged(outcome, body, judge, recipe, ask)
    return outcome


async def _judged(outcome: Outcome, body: bytes, judge: Judge, recipe: Recipe, ask: Asker) -> None:
    """Drop the pairs that the judge scores too low, or about which it says nothing that can be read."""
    pairs, outcome.pairs = outcome.pairs, []
    why = ""
    scores: list[float] = [0.0] * len(pairs)
    try:
        _, answer = await ask(judging_request(body, pairs, judge, recipe))
        scores = scores_of(answer.text, len(pairs))
    except FailedError as error:
        why = f"the judge gave no answer: {error.detail}"
    except ValueError as error:
        why = f"the judge cannot be read: {error}"
    for pair, score in zip(pairs, scores, strict=True):
        if not why and score >= judge.least:
            outcome.pairs.append(pair)
            outcome.scores.append(score)
        else:
            detail = why or f"scored {score:g}; the least is {judge.least:g}"
            outcome.dropped.append(Dropped("judged", detail, pair.instruction, pair.answer))


def _is_final(answer: Answer, outcome: Outcome) -> bool:
    """Whether there is nothing to read in ``answer``; noted in ``outcome``."""
    if answer.fault:
        outcome.reason, outcome.detail = "too_long", answer.fault
    elif answer.refusal and not answer.text:
        outcome.reason, outcome.detail = "refusal", answer.refusal[:200]
    return bool(outcome.reason)


def _sort(pairs: list[Pair], job: Job, recipe: Recipe, outcome: Outcome) -> None:
    """Put each pair among those that are kept so far, or those that are not."""
    wanted = wanted_pairs(recipe, job.record)
    for number, pair in enumerate(pairs):
        fault = fault_of_pair(pair, job.record, recipe, job.language)
        if fault is None and number >= wanted:
            fault = ("too_many", f"pair {number + 1} of {len(pairs)}; {wanted} were asked for")
        if fault is None:
            outcome.pairs.append(pair)
        else:
            outcome.dropped.append(Dropped(*fault, pair.instruction, pair.answer))
