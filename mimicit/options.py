"""Options declared once: a field of a dataclass says name, type, default, range and help, and all else follows.

::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class MediaOptions:
        frames: int = option(8, "Frames per clip, evenly spaced.", least=1)
        image_format: Literal["jpg", "png"] = option("jpg", "Format of stored pictures.")

`click_options` gives a command ``--frames`` and ``--image-format``, `check` refuses values that are out of range,
`json_schema` describes the same keys of a file, and `configured` makes the dataclass from such keys. A field whose type
is such a dataclass adds its options: in a file they stand next to the others, or in a table named after the field if
the field is declared as an option too. Fields that declare nothing are not options.

`parse_toml` reads an untrusted file of such keys in bounded time: the parser of the standard library takes time
quadratic in the steps of a dotted key.
"""

from __future__ import annotations

import functools
import math
import operator
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from mimicit.errors import UsageError, hint

if TYPE_CHECKING:
    import click

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_LIMITS: Final = (
    ("least", "at least", operator.ge, "minimum"),
    ("above", "more than", operator.gt, "exclusiveMinimum"),
    ("most", "at most", operator.le, "maximum"),
    ("below", "less than", operator.lt, "exclusiveMaximum"),
)
_JSON_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}

_INT64: Final = 1 << 63
_MAX_CHARACTERS: Final = 1 << 20
_MAX_STEPS: Final = 64
_LITERAL: Final = re.compile(r'"(?:[^"\\\n]|\\.)*+"|\'[^\'\n]*+\'')
_BETWEEN_KEYS: Final = re.compile(r"[=,#{}\[\]\n]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """The declaration of one option.

    A number must be finite, at least ``least``, more than ``above``, at most ``most`` and less than ``below``; a text
    must be one of ``choices`` (those of a `Literal`, unless others are given), or match ``pattern`` as a whole.
    ``key`` is its name in a file if that is not the field's, and ``flag`` its name on the command line: True derives it
    from the key, False leaves the option to files. Users write the value in multiples of ``unit``. ``unset`` is what
    the help shows instead of the default. Whole numbers have at most 64 bits.
    """

    help: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: Sequence[str] = ()
    pattern: str = ""
    flag: str | bool = True
    key: str = ""
    unit: int = 1
    unset: str = ""
    metavar: str | None = None
    kind: Any = None  # the rest comes from the field
    default: Any = None

    @property
    def label(self) -> str:
        """Its name in messages: the flag if it has one, else the key."""
        return self.flag if isinstance(self.flag, str) else self.key

    @property
    def range(self) -> str:
        """The values that it takes, in words; empty if any will do."""
        if self.choices:
            return ", ".join(self.choices)
        if self.least is not None and self.most is not None:
            return f"between {self.least:,} and {self.most:,}"
        return " and ".join(f"{words} {self.in_units(limit):,}" for words, limit, _, _ in self.limits())

    def limits(self) -> list[tuple[str, float, Callable[[float, float], bool], str]]:
        """Each limit: in words, as a number, the comparison of a value with it, and its name in a JSON schema."""
        limits = ((words, getattr(self, name), within, keyword) for name, words, within, keyword in _LIMITS)
        return [limit for limit in limits if limit[1] is not None]

    def in_units(self, limit: float) -> float:
        """``limit``, which is that of the field, in the units that the user writes, rounded up."""
        return limit if self.unit == 1 else math.ceil(limit / self.unit)

    def refuse(self, value: Any, label: str) -> None:
        """`UsageError` naming ``label`` if ``value`` is out of range, or not among the choices."""
        if self.choices and value not in self.choices:
            raise UsageError(f"{label} {value}: no such choice; {hint(str(value), self.choices)}")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise UsageError(f"{label} {value!r}: must match {self.pattern}")
        if isinstance(value, int) and not -_INT64 <= value < _INT64:  # unlimited in Python, but not in files
            raise UsageError(f"{label}: a number of at most 64 bits is expected")
        if isinstance(value, int | float) and not self._admits(value):
            written = value if self.unit == 1 else f"{value / self.unit:g}"
            wanted = self.range if math.isfinite(value) else f"{self.range} and finite".removeprefix(" and ")
            raise UsageError(f"{label} {written}: must be {wanted}")

    def _admits(self, value: float) -> bool:
        return math.isfinite(value) and all(within(value, limit) for _, limit, within, _ in self.limits())


def option(default: T, help: str, **declared: Any) -> T:
    """A dataclass field that is an option with a default; ``declared`` are the fields of `Option`."""
    how: dict[str, Any] = {"default_factory": default.copy} if isinstance(default, dict) else {"default": default}
    made: T = field(**how, metadata=about(help, **declared))
    return made


def about(help: str, **declared: Any) -> dict[str, Option]:
    """The metadata that makes a `dataclasses.field` an option; for options without a default."""
    return {"option": Option(help=help, **declared)}


def same_option(kind: type[Any], name: str) -> Any:
    """A field with the declaration of the field ``name`` of ``kind``, but None by default."""
    return field(default=None, metadata=kind.__dataclass_fields__[name].metadata)


def options_of(kind: Any) -> list[tuple[str, Option]]:
    """All options of the dataclass ``kind`` and of those in it, in order, with their tables in a file: ``filters.``."""
    found: list[tuple[str, Option]] = []
    for _, inner, declared in _fields(kind):
        if is_dataclass(inner):
            table = f"{declared.key}." if declared else ""
            found += [(table + place, one) for place, one in options_of(inner)]
        elif declared is not None:
            found.append(("", declared))
    return found


def check(config: Any, place: str = "") -> None:
    """`UsageError` if a value in the dataclass ``config`` is out of range; it names ``place``, if given, not flags."""
    for one, _, declared in _fields(config.__class__):
        value = getattr(config, one.name)
        if is_dataclass(value):
            check(value, place)
        elif declared is not None and value is not None:
            declared.refuse(value, f"{place}: {declared.key}" if place else declared.label)


def configured(kind: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass ``kind`` with the ``values`` of options by their keys in a file, and defaults for absent ones.

    An option of a table may also stand outside it, and then wins, as on the command line.
    """
    given = {}
    for one, inner, declared in _fields(kind):
        if is_dataclass(inner) and (one.default is not None or (declared and declared.key in values)):
            table = values.get(declared.key, {}) if declared else {}
            given[one.name] = configured(inner, {**table, **values})
        elif declared is not None and declared.key in values:
            given[one.name] = _stored(values[declared.key], declared)
    return kind(**given)


def json_schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of a table with the options of ``kind``, and no others."""
    properties: dict[str, Any] = {}
    required = []
    for _, inner, declared in _fields(kind):
        if declared is not None:
            limits = {keyword: declared.in_units(limit) for _, limit, _, keyword in declared.limits()}
            pattern = {"pattern": f"^{declared.pattern}$"} if declared.pattern else {}
            properties[declared.key] = {**_schema(inner), **limits, **pattern, "description": declared.help}
            if declared.default is MISSING:
                required.append(declared.key)
                properties[declared.key]["minLength"] = 1
        elif is_dataclass(inner):
            properties |= json_schema(inner)["properties"]
    schema = {"type": "object", "additionalProperties": False}
    return {**schema, **({"required": required} if required else {}), "properties": properties}


def click_options(kind: type[Any], *, only: Sequence[str] = (), defaults: bool = True) -> Callable[[Command], Command]:
    """A decorator that gives a click command the options of ``kind``, each a parameter called by its key in a file.

    ``only`` limits them to these keys. Without ``defaults``, options that are not given are None, but for flags.
    """
    import click  # not needed by those who only read shards

    def decorate(command: Command) -> Command:
        for _, declared in reversed(options_of(kind)):
            if isinstance(declared.flag, str) and (not only or declared.key in only):
                both = declared.kind is bool and declared.default
                flag = f"{declared.flag}/--no-{declared.flag[2:]}" if both else declared.flag
                command = click.option(flag, declared.key, **_click(declared, defaults))(command)
        return command

    return decorate


def refuse_repeats(command: click.Command, ctx: click.Context, args: Sequence[str]) -> None:
    """`click.UsageError` if ``args`` repeat an option that takes one value: click would keep the last."""
    import click  # not needed by workers, which share these declarations

    _, _, given = command.make_parser(ctx).parse_args(args=list(args))
    seen: set[click.Parameter] = set()
    for option in given:
        if isinstance(option, click.Option) and not (option.multiple or option.count):
            if option in seen:
                raise click.UsageError(f"{'/'.join(option.opts)} is given twice; it takes one value", ctx)
            seen.add(option)


def parse_toml(text: str) -> dict[str, Any]:
    """The value of a TOML text; `ValueError` if it is invalid or too long, or a key has too many steps."""
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"{len(text):,} characters, more than {_MAX_CHARACTERS:,}")
    if text.count(".") > _MAX_STEPS:
        for piece in _BETWEEN_KEYS.split(_LITERAL.sub("_", text)):
            if piece.count(".") > _MAX_STEPS:
                raise ValueError(f"a key of more than {_MAX_STEPS} steps: {piece.strip()[:40]}...")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("too many brackets inside each other") from None


@functools.cache
def _fields(kind: Any) -> tuple[tuple[Field[Any], Any, Option | None], ...]:
    """Every field with its type (less None) and, if it is an option, its declaration."""
    hints = get_type_hints(kind)
    return tuple((one, inner := _less_none(hints[one.name]), _declared(one, inner)) for one in fields(kind))


def _declared(one: Field[Any], inner: Any) -> Option | None:
    declared: Option | None = one.metadata.get("option")
    if declared is None:
        return None
    key = declared.key or one.name
    return replace(
        declared,
        key=key,
        flag=f"--{key.replace('_', '-')}" if declared.flag is True else declared.flag,
        choices=declared.choices or (get_args(inner) if get_origin(inner) is Literal else ()),
        kind=inner,
        default=one.default if one.default_factory is MISSING else one.default_factory(),
    )


def _less_none(kind: Any) -> Any:
    some = [one for one in get_args(kind) if one is not NoneType]
    return functools.reduce(lambda one, other: one | other, some) if NoneType in get_args(kind) else kind


def _stored(value: Any, declared: Option) -> Any:
    if value is None:
        return None
    if declared.kind is float:  # a ratio written as 4 or 4.0 is one ratio, and must not look like two
        return float(value)
    if get_origin(declared.kind) is tuple:
        return tuple(value)
    return value if declared.unit == 1 else value * declared.unit


def _schema(kind: Any) -> dict[str, Any]:
    if is_dataclass(kind):
        return json_schema(kind)
    inner = get_args(kind)
    match get_origin(kind):
        case None:
            return {"type": _JSON_TYPES[kind]}
        case origin if origin is Literal:
            return {"enum": list(inner)}
        case origin if origin is tuple:
            items = _schema(inner[0])
            return {"type": "array", "items": {**items, "minLength": 1} if inner[0] is str else items}
        case origin if origin is Mapping:
            return {"type": "object", "additionalProperties": _schema(inner[1])}
    either = [_schema(one) for one in inner]
    return {**{key: value for one in either for key, value in one.items()}, "type": [one["type"] for one in either]}


def _click(declared: Option, defaults: bool) -> dict[str, Any]:
    import click

    settings: dict[str, Any] = {"help": declared.help, "metavar": declared.metavar}
    settings["show_default"] = declared.unset or True
    if declared.kind is bool:
        return {**settings, "is_flag": True, "default": declared.default}
    if get_origin(declared.kind) in (tuple, Mapping):
        return {**settings, "multiple": True, "help": f"{declared.help.removesuffix('.')}; may be given several times."}
    if defaults and declared.default is not None:
        settings["default"] = declared.default // declared.unit if declared.unit > 1 else declared.default
    if declared.choices:
        return {**settings, "type": click.Choice(declared.choices)}
    kind = (get_args(declared.kind) or (declared.kind,))[0]
    return {**settings, "type": click.Path(path_type=Path) if kind is Path else kind}
