"""Options that are given twice on a command line, for the programs of both packages."""

from __future__ import annotations

from collections.abc import Sequence

import click

__all__ = ["refuse_repeats"]


def refuse_repeats(command: click.Command, ctx: click.Context, args: Sequence[str]) -> None:
    """`click.UsageError` where ``args`` give an option twice that takes one value: click would keep the last."""
    _, _, given = command.make_parser(ctx).parse_args(args=list(args))
    seen: set[click.Parameter] = set()
    for option in given:
        if isinstance(option, click.Option) and not (option.multiple or option.count):
            if option in seen:
                raise click.UsageError(f"{'/'.join(option.opts)} is given twice; it takes one value", ctx)
            seen.add(option)
