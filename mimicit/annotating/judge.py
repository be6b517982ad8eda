"""A second model that looks at the pairs of a record and scores each from 1 to 5; low ones are dropped.

It sees what the first was told (words and pictures, not its instructions), and answers on lines or in JSON as the
recipe has it. Its requests are kept like all others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from mimicit.annotating.answers import Pair
from mimicit.annotating.recipe import Recipe
from mimicit.schema import canonical_json

__all__ = ["Judge", "judging_request", "scores_of"]

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


@dataclass(frozen=True, slots=True)
class Judge:
    """The ``model`` that scores, and the ``least`` score of a pair that is kept."""

    model: str
    least: float = 4.0


def judging_request(body: bytes, pairs: Sequence[Pair], judge: Judge, recipe: Recipe) -> bytes:
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


def scores_of(text: str, count: int) -> list[float]:
    """The scores that ``text`` gives to ``count`` pairs; `ValueError` where it does not give one to each."""
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
