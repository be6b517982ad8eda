"""A record in words, and the request that asks about it: its canonical JSON is what is sent, and its hash its name."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from mimicit.annotating.answers import answer_schema, form_in_words, written_out
from mimicit.annotating.facts import Box
from mimicit.annotating.recipe import Recipe, filled
from mimicit.annotating.records import Record
from mimicit.errors import RejectedError
from mimicit.schema import canonical_json

__all__ = ["Job", "asked_again", "record_in_words", "request_of", "shortened", "unfit"]

_MOST_CHARACTERS: Final = 200_000  # of a record in words
_TYPES: Final = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_MOST_REPEATED: Final = 20_000  # characters of a bad answer that the model is shown again
_SHOWN_CHARACTERS: Final = 40  # of a picture in a request that is printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One question to the model: a record in one language.

    ``neighbours`` are the numbers of the jobs whose records are shown beside it, ``beside`` their words.
    """

    number: int
    record: Record
    language: str
    neighbours: tuple[int, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Unique in the run; English is what goes without saying."""
        return self.record.id if self.language == "English" else f"{self.record.id}@{self.language}"


def unfit(record: Record, recipe: Recipe) -> str:
    """Why the recipe does not ask about ``record``; empty where it does."""
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
    """What the recipe's template makes of the record; `UsageError` where it cannot, ``too_long`` for a book."""
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
    messages: list[dict[str, Any]] = [{"role": "system", "content": f"{system}\n\n{form_in_words(recipe)}"}]
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
        schema = {"name": "pairs", "strict": True, "schema": answer_schema(recipe.form)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return canonical_json(body)


def asked_again(body: bytes, answer: str, fault: str, recipe: Recipe) -> bytes:
    """The request that shows the model its ``answer`` and what is wrong with it."""
    value = orjson.loads(body)
    value["messages"] += [
        {"role": "assistant", "content": answer[:_MOST_REPEATED]},
        {"role": "user", "content": f"That cannot be used: {fault}. Write it again. {form_in_words(recipe)}"},
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


def _data_url(extension: str, data: bytes) -> str:
    return f"data:{_TYPES[extension]};base64,{base64.b64encode(data).decode()}"


def _box(box: Box, meta: Mapping[str, Any]) -> dict[str, Any]:
    """A box as templates see it; ``where`` puts its place into words, as far as the size of the picture is known."""
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
