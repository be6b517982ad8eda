"""How the command line helps who mistypes or forgets: commands listed by task, and the nearest name there is.

Options and choices are suggested by click itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from mimicit.errors import ShardError, hint, nearest
from mimicit.options import refuse_repeats

_NAMES_COMPARED: Final = 10_000  # of one folder: a suggestion is not worth seconds


class TaskGroup(click.Group):
    """A group whose help shows its commands by task, each as an example, and that suggests commands.

    ``tasks`` maps a heading to examples by the name of the command. A command without one is listed by name.
    """

    def __init__(self, *args: Any, tasks: Mapping[str, Mapping[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tasks = tasks

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per task."""
        shown = {name for examples in self.tasks.values() for name in examples}
        others = {name: name for name in self.list_commands(ctx) if name not in shown}
        columns = max(len(example) for examples in self.tasks.values() for example in examples.values())
        for heading, examples in {**self.tasks, **({"Others": others} if others else {})}.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        (example.ljust(columns), self.commands[name].get_short_help_str(120))
                        for name, example in examples.items()
                    ],
                    col_max=columns,
                )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command where there is none of this name."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"no command {name!r}; {hint(name, self.list_commands(ctx))}")
        found, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:  # what is being completed need not be right
            refuse_repeats(command, click.Context(command, info_name=found, parent=ctx), rest)
        return found, command, rest


class ExistingPath(click.Path):
    """The path of a file or folder that must be there; `ShardError` names the nearest one beside it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The `Path` of ``value``."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not os.path.exists(path):  # False, not an error, for a name that is too long
            raise ShardError(f"{path}: no such file or folder{nearest_path(path)}")
        return path


def nearest_path(path: Path) -> str:
    """``"; did you mean X?"``, where the folder in which ``path`` goes wrong holds a similar name; else ``""``."""
    missing = path
    while not os.path.isdir(missing.parent) and missing.parent != missing:
        missing = missing.parent
    try:
        names = sorted(entry.name for entry in islice(missing.parent.iterdir(), _NAMES_COMPARED))
    except OSError:
        return ""
    close = nearest(missing.name, names)
    if close is None:
        return ""
    found = missing.parent / close
    whole = found / path.relative_to(missing)
    return f"; did you mean {whole if os.path.exists(whole) else found}?"


EXIT_FAILED: Final = 1  # also: there are findings
EXIT_USAGE: Final = 2


def print_json(value: Any) -> None:
    """Print ``value`` for programs."""
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
