"""A recipe: how a model is asked for pairs about a record, as a TOML file that ``schemas/recipe.json`` defines.

::

    name = "detail"
    pairs = 2
    system = "You write training data for a vision model. Write {{ pairs }} questions with answers in {{ language }}."
    template = '''
    {% for caption in captions %}- {{ caption }}
    {% endfor %}'''
    [request]
    temperature = 0.7
    [[example]]
    record = "- a dog jumps over a fence"
    pairs = [{ instruction = "What is the dog doing?", answer = "It is jumping over a fence." }]

Templates are Jinja's, in a sandbox: a recipe can put words together and nothing else. The names that it may use are
listed in docs/annotating.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mimicit.errors import SchemaError, UsageError, hint
from mimicit.options import parse_toml
from mimicit.schema import canonical_json, refuse_unknown_keys, validate
from mimicit.shards.files import read_regular

Form = Literal["pairs", "turns", "choices"]

_MAX_BYTES: Final = 4 << 20
_FORBIDDEN: Final = (
    *("the caption", "captions", "the description", "bounding box", "coordinates", "as an ai", "language model"),
    *("based on the information", "the provided text", "i cannot see"),
)


@dataclass(frozen=True, slots=True)
class Example:
    """A worked example: a ``record`` in words, and the ``pairs`` that a good answer has."""

    record: str
    pairs: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOptions:
    """What a pair must be to be kept; see `mimicit.annotating.gates`."""

    min_words: int = 1
    max_words: int = 400
    forbidden: tuple[str, ...] = _FORBIDDEN
    check_language: bool = True
    may_repeat: bool = False
    most_alike: int = 20


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The fields of ``schemas/recipe.json``; ``fingerprint`` is the SHA-256 of all that the file says."""

    name: str
    system: str
    template: str
    fingerprint: str
    about: str = ""
    form: Form = "pairs"
    pairs: int = 3
    languages: tuple[str, ...] = ("English",)
    pictures: Literal["none", "send"] = "none"
    answers: Literal["json", "text"] = "json"
    needs: tuple[str, ...] = ()
    media: tuple[int, int] = (0, 1000)
    kinds: tuple[str, ...] = ("image", "video")
    neighbours: int = 0
    neighbours_by: Literal["words", "picture"] = "words"
    size: int = 336
    frames: int = 8
    request: Mapping[str, Any] = field(default_factory=dict)
    example: tuple[Example, ...] = ()
    gates: GateOptions = field(default_factory=GateOptions)

    @cached_property
    def system_template(self) -> Template:
        """`system`, compiled."""
        return _compiled(self.name, "system", self.system)

    @cached_property
    def record_template(self) -> Template:
        """`template`, compiled."""
        return _compiled(self.name, "template", self.template)


def built_in_recipes() -> dict[str, str]:
    """The recipes that come with the package: the text of each by its name."""
    folder = resources.files("mimicit.annotating") / "recipes"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda entry: entry.name)
    return {entry.name.removesuffix(".toml"): entry.read_text("utf-8") for entry in files}


def read_recipe(given: str, *, answers: Literal["json", "text"] | None = None) -> Recipe:
    """The recipe in the file ``given``, or the built-in recipe of that name; ``answers`` overrides that of the recipe.

    `UsageError` names the file, the place in it and the fault.
    """
    known = built_in_recipes()
    path = Path(given)
    if given in known:
        return parse_recipe(known[given], f"recipe {given}", answers=answers)
    try:
        text = read_regular(path, most=_MAX_BYTES).decode()
    except FileNotFoundError:
        raise UsageError(f"--recipe: no file {given}, and no such recipe; {hint(given, known)}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error}") from None
    return parse_recipe(text, str(path), answers=answers)


def parse_recipe(text: str, place: str, *, answers: Literal["json", "text"] | None = None) -> Recipe:
    """The recipe of a TOML ``text``; ``place`` names it in errors."""
    try:
        value = orjson.loads(orjson.dumps(parse_toml(text)))  # dates become text, which fails the schema
        refuse_unknown_keys("recipe", value)
        validate("recipe", value)
    except (ValueError, TypeError, SchemaError) as error:
        raise UsageError(f"{place}: {error}") from None
    if answers is not None:
        value["answers"] = answers
    fields: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
    fields["example"] = tuple(Example(one["record"], tuple(one["pairs"])) for one in value.get("example", ()))
    gates: dict[str, Any] = {
        name: tuple(part) if isinstance(part, list) else part for name, part in value.get("gates", {}).items()
    }
    fields["gates"] = GateOptions(**gates)
    recipe = Recipe(**fields, fingerprint=hashlib.sha256(canonical_json(value)).hexdigest())
    _check(recipe, place)
    return recipe


def filled(template: Template, values: Mapping[str, Any], place: str) -> str:
    """Render ``template`` with ``values``; `UsageError` says what is wrong, and suggests the nearest known name."""
    try:
        return template.render(values).strip()
    except TemplateError as error:
        words = str(error)
        named = words.split("'")[1] if words.startswith("'") and words.count("'") > 1 else ""
        meant = f"; {hint(named, sorted(values))}" if named and named not in values else ""
        raise UsageError(f"{place}: {words}{meant}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{place}: {type(error).__name__}: {error}") from None


def _check(recipe: Recipe, place: str) -> None:
    least, most = recipe.media
    if least > most:
        raise UsageError(f"{place}: media = [{least}, {most}]: the least is more than the most")
    if recipe.gates.min_words > recipe.gates.max_words:
        raise UsageError(f"{place}: gates: min_words {recipe.gates.min_words} is more than max_words")
    if recipe.pictures == "send" and most == 0:
        raise UsageError(f"{place}: pictures = 'send' and media = [0, 0]: there are none to send")
    for number, example in enumerate(recipe.example):
        for pair in example.pairs:
            choices = pair.get("choices")
            if (recipe.form == "choices") != (choices is not None):
                wanted = "needs choices" if recipe.form == "choices" else f"has choices; the form is {recipe.form}"
                raise UsageError(f"{place}: example[{number}]: a pair {wanted}")
            if choices is not None and pair["answer"] not in choices:
                raise UsageError(f"{place}: example[{number}]: the answer must be one of the choices, word for word")
    _ = recipe.system_template, recipe.record_template


def _compiled(name: str, what: str, text: str) -> Template:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        return environment.from_string(text)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise UsageError(f"recipe {name}: {what}{f', line {line}' if line else ''}: {error}") from None
