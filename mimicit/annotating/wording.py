"""A record in words, and the request that asks about it: its canonical JSON is sent, and the hash of that is its name.

And back: what a model wrote is parsed strictly into pairs: JSON by the recipe's schema, or lines of ``Question:`` and
``Answer:``. A deviation is one fault in words, which the model also gets when it is asked once more.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import jsonschema_rs
import orjson

from mimicit.annotating.facts import Box
from mimicit.annotating.recipe import Form, Recipe, filled
from mimicit.annotating.records import Record
from mimicit.errors import RejectedError
from mimicit.schema import canonical_json

_MOST_CHARACTERS: Final = 200_000  # of a record in words
_TYPES: Final = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_MOST_REPEATED: Final = 20_000  # characters of a bad answer that the model is shown again
_SHOWN_CHARACTERS: Final = 40  # of a picture in a request that is printed

_THOUGHTS: Final = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)  # of models that reason aloud
_FENCE: Final = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)
_LABEL: Final = re.compile(r"^\s*(?:\d{1,3}[.)]\s*)?\**(question|answer)\**\s*(?:\d{1,3})?\s*:\**\s*", re.IGNORECASE)
_CHOICE: Final = re.compile(r"^\s*\(?([A-J])[.):]\s*(\S.*)$")
_LETTER: Final = re.compile(r"^\(?([A-J])(?:[.):]|\s*$)")
_LETTERS: Final = "ABCDEFGHIJ"
_MOST_PAIRS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One question to the model: a record in one language.

    ``neighbours`` are the numbers of the jobs whose records are shown together with it, ``beside`` their words.
    """

    number: int
    record: Record
    language: str
    neighbours: tuple[int, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Unique in the run; it names the language unless that is English."""
        return self.record.id if self.language == "English" else f"{self.record.id}@{self.language}"


def unfit(record: Record, recipe: Recipe) -> str:
    """Why the recipe does not ask about ``record``; empty if it does."""
    least, most = recipe.media
    has = {
        "captions": bool(record.captions),
        "pairs": bool(record.pairs),
        "boxes": bool(record.boxes),
        "moments": bool(record.moments),
        "media": bool(record.media),
    }
    has["text"] = any(has[name] for name in ("captions", "pairs", "boxes", "moments"))
    lacking = [name for name in recipe.needs if not has[name]]
    if lacking:
        return f"the recipe needs {' and '.join(lacking)}, which the record has not"
    if not least <= len(record.media) <= most:
        return f"{len(record.media)} pictures or clips; the recipe asks about {least} to {most}"
    if other := next((ref.kind for ref in record.media if ref.kind not in recipe.kinds), None):
        return f"shows {'a clip' if other == 'video' else 'a picture'}; the recipe asks about {recipe.kinds[0]}s alone"
    if recipe.pictures == "none" and not has["text"]:
        return "nothing is known of it, and the recipe sends no pictures"
    return ""


def wanted_pairs(recipe: Recipe, record: Record) -> int:
    """How many pairs are asked for."""
    return recipe.pairs or len(record.pairs)


def record_in_words(job: Job, recipe: Recipe) -> str:
    """What the recipe's template makes of the record; `UsageError` if it fails, `RejectedError` if it is too long."""
    record = job.record
    values: dict[str, Any] = {
        "captions": list(record.captions),
        "known_pairs": [{"instruction": question, "answer": answer} for question, answer in record.pairs],
        "boxes": [_box(box, record.meta) for box in record.boxes],
        "moments": [{"start": one.start_s, "end": one.end_s, "text": one.text} for one in record.moments],
        "media": [{"number": number, "kind": ref.kind} for number, ref in enumerate(record.media, 1)],
        "meta": dict(record.meta),
        "neighbours": list(job.beside),
        "pairs": wanted_pairs(recipe, record),
        "language": job.language,
    }
    text = filled(recipe.record_template, values, f"recipe {recipe.name}: template, for {record.id}")
    if len(text) > _MOST_CHARACTERS:
        raise RejectedError("too_long", f"the record takes {len(text):,} characters, more than {_MOST_CHARACTERS:,}")
    return text


def request_of(job: Job, recipe: Recipe, model: str, pictures: Sequence[tuple[str, bytes]] = ()) -> bytes:
    """The body of the request as canonical JSON; ``pictures`` are (extension, bytes) in the order of the media."""
    wanted = wanted_pairs(recipe, job.record)
    told = {"pairs": wanted, "language": job.language}
    system = filled(recipe.system_template, told, f"recipe {recipe.name}: system")
    messages: list[dict[str, Any]] = [{"role": "system", "content": f"{system}\n\n{_form_in_words(recipe)}"}]
    for example in recipe.example:
        messages.append({"role": "user", "content": example.record.strip()})
        messages.append({"role": "assistant", "content": written_out(example.pairs, recipe)})
    words = record_in_words(job, recipe)
    content: Any = words
    if pictures:
        shown = ({"type": "image_url", "image_url": {"url": _data_url(*picture)}} for picture in pictures)
        content = [*shown, *([{"type": "text", "text": words}] if words else [])]
    messages.append({"role": "user", "content": content})
    body: dict[str, Any] = {**recipe.request, "model": model, "messages": messages}
    if recipe.answers == "json":
        schema = {"name": "pairs", "strict": True, "schema": _answer_schema(recipe.form)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return canonical_json(body)


def asked_again(body: bytes, answer: str, fault: str, recipe: Recipe) -> bytes:
    """The request that shows the model its ``answer`` and what is wrong with it."""
    value = orjson.loads(body)
    value["messages"] += [
        {"role": "assistant", "content": answer[:_MOST_REPEATED]},
        {"role": "user", "content": f"That cannot be used: {fault}. Write it again. {_form_in_words(recipe)}"},
    ]
    return canonical_json(value)


def shortened(body: bytes) -> str:
    """A request for people to read: indented, with the beginning of each picture."""

    def plain(value: Any) -> Any:
        match value:
            case dict():
                return {name: plain(part) for name, part in value.items()}
            case list():
                return [plain(part) for part in value]
            case str() if value.startswith("data:image/") and len(value) > _SHOWN_CHARACTERS:
                return f"{value[:_SHOWN_CHARACTERS]}... ({len(value):,} characters)"
        return value

    return orjson.dumps(plain(orjson.loads(body)), option=orjson.OPT_INDENT_2).decode()


@dataclass(frozen=True, slots=True)
class Pair:
    """An ``instruction`` and its ``answer``; of a question with ``choices``, the answer is one of them."""

    instruction: str
    answer: str
    choices: tuple[str, ...] = ()


class UnreadableError(ValueError):
    """The text is not what the recipe asks for; ``str(error)`` says what is wrong, in words for the model too."""


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
    """The pairs that ``text`` holds, one or more; `UnreadableError` if it is anything else."""
    plain = _THOUGHTS.sub("", text, count=1).strip()
    if not plain:
        raise UnreadableError("the answer is empty")
    pairs = _from_json(plain, recipe.form) if recipe.answers == "json" else _from_lines(plain, recipe.form)
    if not pairs:
        raise UnreadableError("there is no pair")
    if len(pairs) > _MOST_PAIRS:
        raise UnreadableError(f"there are {len(pairs):,} pairs, more than {_MOST_PAIRS}")
    return pairs


def _data_url(extension: str, data: bytes) -> str:
    return f"data:{_TYPES[extension]};base64,{base64.b64encode(data).decode()}"


def _box(box: Box, meta: Mapping[str, Any]) -> dict[str, Any]:
    """A box as templates see it; ``where`` puts its place into words, if the size of the picture is known."""
    shown: dict[str, Any] = {"label": box.label, "where": "", "box": list(box.box) if box.box else []}
    if box.box is None:
        return shown
    x, y, width, height = box.box
    sides = (meta.get("width"), meta.get("height"))
    if max(box.box) <= 1:
        across, down = x + width / 2, y + height / 2
    elif all(isinstance(side, int | float) and side > 0 for side in sides):
        across, down = (x + width / 2) / float(sides[0] or 1), (y + height / 2) / float(sides[1] or 1)
    else:
        return shown
    names = (_third(down, "upper ", "", "lower "), _third(across, "left", "middle", "right"))
    return {**shown, "where": "".join(names)}


def _third(place: float, first: str, second: str, third: str) -> str:
    return first if place < 1 / 3 else second if place < 2 / 3 else third


def _answer_schema(form: Form) -> dict[str, Any]:
    """The JSON Schema of an answer, in the subset of the language that servers enforce on their models."""
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


def _form_in_words(recipe: Recipe) -> str:
    """The instructions to the model about the form of its answer."""
    if recipe.answers == "json":
        fields = "an instruction, its answer" + (", and a list of choices" if recipe.form == "choices" else "")
        shown = '{"pairs": [{"instruction": "...", "answer": "..."' + (
            ', "choices": ["...", "..."]}]}' if recipe.form == "choices" else "}]}"
        )
        return f"Answer with JSON and nothing else: {shown}. Each pair has {fields}."
    if recipe.form == "choices":
        return "Write nothing but such lines:\nQuestion: ...\nA) ...\nB) ...\nAnswer: the letter of the right choice"
    return "Write nothing but such lines:\nQuestion: ...\nAnswer: ..."


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
    return jsonschema_rs.validator_for(_answer_schema(form))
