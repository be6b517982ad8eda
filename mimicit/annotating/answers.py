"""From what a model wrote to pairs, strictly: JSON by the recipe's schema, or lines of ``Question:`` and ``Answer:``.

What does not fit is one fault in words, which is also what the model is told when it is asked once more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import jsonschema_rs
import orjson

from mimicit.annotating.recipe import Form, Recipe

__all__ = ["Pair", "UnreadableError", "answer_schema", "form_in_words", "pairs_of", "written_out"]

_THOUGHTS: Final = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)  # of models that reason aloud
_FENCE: Final = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)
_LABEL: Final = re.compile(r"^\s*(?:\d{1,3}[.)]\s*)?\**(question|answer)\**\s*(?:\d{1,3})?\s*:\**\s*", re.IGNORECASE)
_CHOICE: Final = re.compile(r"^\s*\(?([A-J])[.):]\s*(\S.*)$")
_LETTER: Final = re.compile(r"^\(?([A-J])(?:[.):]|\s*$)")
_LETTERS: Final = "ABCDEFGHIJ"
_MOST_PAIRS: Final = 200


@dataclass(frozen=True, slots=True)
class Pair:
    """An ``instruction`` and its ``answer``; of a question with ``choices``, the answer is one of them."""

    instruction: str
    answer: str
    choices: tuple[str, ...] = ()


class UnreadableError(ValueError):
    """The text is not what the recipe asks for; ``str(error)`` says what is wrong, in words for the model too."""


def answer_schema(form: Form) -> dict[str, Any]:
    """The JSON Schema of an answer, in the part of the language that servers hold their models to."""
    text = {"type": "string"}
    fields: dict[str, Any] = {"instruction": text, "answer": text}
    if form == "choices":
        fields["choices"] = {"type": "array", "items": text}
    pair = {"type": "object", "additionalProperties": False, "required": sorted(fields), "properties": fields}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["pairs"],
        "properties": {"pairs": {"type": "array", "items": pair}},
    }


def form_in_words(recipe: Recipe) -> str:
    """What the model is told of the form of its answer."""
    if recipe.answers == "json":
        fields = "an instruction, its answer" + (", and a list of choices" if recipe.form == "choices" else "")
        shown = '{"pairs": [{"instruction": "...", "answer": "..."' + (
            ', "choices": ["...", "..."]}]}' if recipe.form == "choices" else "}]}"
        )
        return f"Answer with JSON and nothing else: {shown}. Each pair has {fields}."
    if recipe.form == "choices":
        return "Write nothing but such lines:\nQuestion: ...\nA) ...\nB) ...\nAnswer: the letter of the right choice"
    return "Write nothing but such lines:\nQuestion: ...\nAnswer: ..."


def written_out(pairs: Sequence[Mapping[str, Any]], recipe: Recipe) -> str:
    """``pairs`` in the form that the model is to answer in."""
    if recipe.answers == "json":
        return orjson.dumps({"pairs": [dict(pair) for pair in pairs]}).decode()
    lines = []
    for pair in pairs:
        choices = pair.get("choices", ())
        lettered = [f"{letter}) {choice}" for letter, choice in zip(_LETTERS, choices, strict=False)]
        answer = _LETTERS[choices.index(pair["answer"])] if choices else pair["answer"]
        lines += [f"Question: {pair['instruction']}", *lettered, f"Answer: {answer}"]
    return "\n".join(lines)


def pairs_of(text: str, recipe: Recipe) -> list[Pair]:
    """The pairs that ``text`` holds, one or more; `UnreadableError` where it is anything else."""
    plain = _THOUGHTS.sub("", text, count=1).strip()
    if not plain:
        raise UnreadableError("the answer is empty")
    pairs = _from_json(plain, recipe.form) if recipe.answers == "json" else _from_lines(plain, recipe.form)
    if not pairs:
        raise UnreadableError("there is no pair")
    if len(pairs) > _MOST_PAIRS:
        raise UnreadableError(f"there are {len(pairs):,} pairs, more than {_MOST_PAIRS}")
    return pairs


def _from_json(text: str, form: Form) -> list[Pair]:
    fenced = _FENCE.match(text)
    try:
        value = orjson.loads(fenced[1] if fenced else text)
        _validator(form).validate(value)
    except orjson.JSONDecodeError as error:
        raise UnreadableError(f"not JSON: {error}") from None
    except jsonschema_rs.ValidationError as error:
        place = "/".join(map(str, error.instance_path)) or "(top)"
        raise UnreadableError(f"not by the schema: {place}: {error.message[:200]}") from None
    found = value["pairs"]
    return [Pair(one["instruction"].strip(), one["answer"].strip(), _choices(one.get("choices", ()))) for one in found]


def _choices(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(choice.strip() for choice in given)


def _from_lines(text: str, form: Form) -> list[Pair]:
    parts: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        label = _LABEL.match(line)
        if label:
            parts.append((label[1].lower(), [line[label.end() :]]))
        elif parts:
            parts[-1][1].append(line)
        elif line.strip():
            raise UnreadableError(f"it does not begin with Question: but with {line.strip()[:60]!r}")
    if [name for name, _ in parts] != ["question", "answer"] * (len(parts) // 2):
        raise UnreadableError("questions and answers do not take turns")
    texts = ["\n".join(lines).strip() for _, lines in parts]
    return [_pair(question, answer, form) for question, answer in zip(texts[::2], texts[1::2], strict=True)]


def _pair(question: str, answer: str, form: Form) -> Pair:
    if form != "choices":
        return Pair(question, answer)
    asked: list[str] = []
    choices: dict[str, str] = {}
    for line in question.splitlines():
        choice = _CHOICE.match(line)
        if choice:
            choices[choice[1]] = choice[2].strip()
        elif not choices:
            asked.append(line)
    if list(choices) != list(_LETTERS[: len(choices)]) or len(choices) < 2:
        raise UnreadableError("a question needs choices, a line each: A) ..., B) ...")
    letter = _LETTER.match(answer)
    said = choices.get(letter[1], answer) if letter else answer
    return Pair("\n".join(asked).strip(), said, tuple(choices.values()))


@cache
def _validator(form: Form) -> Any:
    return jsonschema_rs.validator_for(answer_schema(form))
