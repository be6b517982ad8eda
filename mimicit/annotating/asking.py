"""From one job to its outcome: ask, read, ask once more if that fails, and let the gates of single pairs decide.

Everything here is a function of the job and of the answers in the store; so a run that is repeated, in whatever order
the answers came, ends with the same outcomes.

A judge is a second model that looks at the pairs of a record and scores each from 1 to 5; low ones are dropped. It sees
what the first model was shown (words and pictures, not its instructions), and answers on lines or in JSON as the recipe
states. Its requests are kept like all others.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from mimicit.annotating.client import FailedError
from mimicit.annotating.gates import fault_of_pair, is_refusal
from mimicit.annotating.recipe import Recipe
from mimicit.annotating.store import Answer, Store, request_hash
from mimicit.annotating.wording import Job, Pair, UnreadableError, asked_again, pairs_of, wanted_pairs
from mimicit.schema import canonical_json

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
"""Why a record has no pair, besides the reasons for which a build rejects records and pictures."""

_CUT_OFF: Final = "length"

_SYSTEM: Final = """
You check training data for an assistant that sees pictures. You are given what is known of one picture, several, or a
clip, and then numbered instructions with answers about it. Score each pair:
5: right, clear, and of use; 4: right, with a small flaw; 3: in part not settled by what is known; 2: in part wrong;
1: wrong, empty, or not about what is shown. Be strict: where something is not certain, it is no more than 3.
"""

_IN_JSON: Final = 'Answer with JSON and nothing else: {"scores": [...]}, a whole number for each pair, in their order.'
_ON_LINES: Final = "Write nothing but a line for each pair, in their order: its number, a colon, and its score."
_LINE: Final = re.compile(r"^\W*(?:pair\s*)?(\d{1,3})\s*[:.)]\s*(?:score:?\s*)?([1-5])\b", re.IGNORECASE | re.MULTILINE)
_MAX_TOKENS: Final = 400


class NotAskedError(Exception):
    """The request was not sent, through no fault of its own: the budget is spent, or this run sends nothing."""


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
    """Answers requests from the store; others are sent, and their answers kept before they are returned.

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


@dataclass(frozen=True, slots=True)
class Judge:
    """The ``model`` that scores, and the ``least`` score of a pair that is kept."""

    model: str
    least: float = 4.0


async def _judged(outcome: Outcome, body: bytes, judge: Judge, recipe: Recipe, ask: Asker) -> None:
    """Drop the pairs that the judge scores too low, or all of them if it gives no readable answer."""
    pairs, outcome.pairs = outcome.pairs, []
    why = ""
    scores: list[float] = [0.0] * len(pairs)
    try:
        _, answer = await ask(_judging_request(body, pairs, judge, recipe))
        scores = _scores_of(answer.text, len(pairs))
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
    """Put each pair among the kept pairs of ``outcome``, or among the dropped ones."""
    wanted = wanted_pairs(recipe, job.record)
    for number, pair in enumerate(pairs):
        fault = fault_of_pair(pair, job.record, recipe, job.language)
        if fault is None and number >= wanted:
            fault = ("too_many", f"pair {number + 1} of {len(pairs)}; {wanted} were asked for")
        if fault is None:
            outcome.pairs.append(pair)
        else:
            outcome.dropped.append(Dropped(*fault, pair.instruction, pair.answer))


def _judging_request(body: bytes, pairs: Sequence[Pair], judge: Judge, recipe: Recipe) -> bytes:
    """The request that asks about ``pairs``, which were the answer to the request ``body``."""
    told = orjson.loads(body)["messages"][1 + 2 * len(recipe.example)]["content"]
    parts: list[dict[str, Any]] = [{"type": "text", "text": told}] if isinstance(told, str) else told
    listed = "\n\n".join(
        f"Pair {number}\nInstruction: {pair.instruction}\n"
        + (f"Choices: {'; '.join(pair.choices)}\n" if pair.choices else "")
        + f"Answer: {pair.answer}"
        for number, pair in enumerate(pairs, 1)
    )
    content: Any = f"{told}\n\n{listed}" if isinstance(told, str) else [*parts, {"type": "text", "text": listed}]
    in_json = recipe.answers == "json"
    system = f"{_SYSTEM.strip()}\n{_IN_JSON if in_json else _ON_LINES}"
    value: dict[str, Any] = {
        "model": judge.model,
        "temperature": 0,
        "max_tokens": _MAX_TOKENS,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": content}],
    }
    if in_json:
        numbers = {"type": "array", "items": {"type": "integer"}}
        schema = {
            "type": "object",
            "additionalProperties": False,
            "required": ["scores"],
            "properties": {"scores": numbers},
        }
        value["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "scores", "strict": True, "schema": schema},
        }
    return canonical_json(value)


def _scores_of(text: str, count: int) -> list[float]:
    """The scores that ``text`` gives to ``count`` pairs; `ValueError` if it does not give one to each."""
    plain = text.strip().removeprefix("```json").removesuffix("```")
    try:
        scores = orjson.loads(plain)["scores"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        found = {int(number): float(score) for number, score in _LINE.findall(text)}
        scores = [found.get(number) for number in range(1, count + 1)]
    if not isinstance(scores, list) or len(scores) != count or not all(_is_score(score) for score in scores):
        raise ValueError(f"no score from 1 to 5 for each of {count} pairs: {' '.join(text.split())[:80]!r}")
    return [float(score) for score in scores]


def _is_score(score: object) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and 1 <= score <= 5
