"""What the three programs of this package share: errors on one line, exit codes, and calm threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from mimicit.errors import MimicitError, UsageError
from mimicit.repeated_options import refuse_repeats

__all__ = ["HELP", "Program", "calm_threads", "errors_on_one_line"]

HELP = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


class Program(click.Command):
    """A command that refuses an option given twice, unless it may be repeated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does."""
        refuse_repeats(self, ctx, args)
        return super().parse_args(ctx, args)


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """End the program with one line and exit code 2 (`UsageError`) or 1 (any other `MimicitError`).

    A missing package is one line too: the programs need an extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        click.echo(f"otter_train: {error}; install what training needs: pip install 'mimicit[train]'", err=True)
        sys.exit(1)
    except MimicitError as error:
        click.echo(f"otter_train: {' '.join(str(error).split())}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def calm_threads() -> None:
    """Let OpenMP threads spin only briefly while they wait; call it before torch is imported.

    By default they spin for long, and one other busy process on the machine makes a step ten times slower. With this
    a step takes twice as long then, and is as fast as ever on a quiet machine.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
