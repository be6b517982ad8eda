"""What all commands share in how they answer."""

from __future__ import annotations

from typing import Any, Final

import click

__all__ = ["EXIT_FAILED", "EXIT_USAGE", "print_json"]

EXIT_FAILED: Final = 1  # also: there are findings
EXIT_USAGE: Final = 2


def print_json(value: Any) -> None:
    """Print ``value`` for programs."""
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
