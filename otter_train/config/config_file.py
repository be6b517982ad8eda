"""``--config run.toml``: the options of a run in a file, and the file that a run leaves behind to be passed again.

A file holds one value per option, or a list for those that may be given several times, under the option's name with
``_`` for ``-``::

    shards = "shards/"
    lr = 2e-5
    context_order = "shuffled"

Values reach the command line's own parser as text, so that a file and a command line mean the same and are refused with
the same words. Paths are relative to the current folder, as on the command line. The names of the other files in the
folder of a run stand here, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import click

from mimicit.errors import UsageError, hint
from mimicit.options import parse_toml
from mimicit.shards.files import write_atomically
from otter_train.config.command_line import errors_on_one_line

__all__ = [
    "CONFIG_NAME",
    "EVAL_NAME",
    "GATES_NAME",
    "GUARD_NAME",
    "LEFT_OUT_NAME",
    "METRICS_NAME",
    "SOURCES_NAME",
    "config_option",
    "read_options",
    "write_options",
]

CONFIG_NAME: Final = "config.json"
"""All its options."""
METRICS_NAME: Final = "metrics.csv"
EVAL_NAME: Final = "eval.csv"
SOURCES_NAME: Final = "sources.csv"
GATES_NAME: Final = "gates.csv"
LEFT_OUT_NAME: Final = "left_out.txt"
"""Samples that no step was made of, with the reason of each."""
GUARD_NAME: Final = "guard.jsonl"
"""Steps that were left out, or would have been."""


def read_options(path: Path, known: Collection[str], several: Collection[str] = ()) -> dict[str, str | list[str]]:
    """The options in the TOML or (``*.json``) JSON file ``path`` as text by name; those that are null are left out.

    Options of ``several`` values may be lists, and become such. `UsageError` names the file and what is wrong with it:
    an option not in ``known`` with the one most like it, a value that is no text, number or truth value.
    """
    options: dict[str, str | list[str]] = {}
    for name, value in _read(path).items():
        if name not in known:
            raise UsageError(f"{path}: no option {name!r}; {hint(name, sorted(known))}")
        if value is None:
            continue
        values = value if isinstance(value, list) and name in several else [value]
        if not all(isinstance(one, str | int | float) for one in values):
            expected = "texts are" if name in several else "one value is"
            raise UsageError(f"{path}: {name}: {expected} expected, not {json.dumps(value, default=str)[:60]}")
        options[name] = [str(one) for one in values] if name in several else str(value)
    return options


def write_options(path: Path, options: Mapping[str, Any]) -> None:
    """Write ``options`` as JSON that `read_options` reads; absent or complete."""
    text = json.dumps(options, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    write_atomically(path, [text.encode(), b"\n"])


def config_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--config``: the option of a click command that fills its other options from a file; the command line wins."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_fill_defaults,
        help="TOML or JSON file of options (with _ for -); the command line wins.",
    )


def _fill_defaults(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    known = {parameter.name: parameter.multiple for parameter in context.command.params
             if isinstance(parameter, click.Option) and parameter is not option and parameter.name}  # fmt: skip
    with errors_on_one_line():
        context.default_map = read_options(path, known, [name for name, multiple in known.items() if multiple])


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value: Any = json.loads(text) if path.suffix == ".json" else parse_toml(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # of both parsers, and text that is no UTF-8
        raise UsageError(f"{path}: neither TOML nor (*.json) JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: not an object of options")
    return value
