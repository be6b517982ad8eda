"""What the programs of this package share: errors on one line, exit codes, calm threads, a quick start and end.

Paths of pretrained models may as well be names on the Hub or architectures of open_clip.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from mimicit.errors import MimicitError, UsageError
from mimicit.options import refuse_repeats

__all__ = [
    "HELP",
    "Program",
    "absolute_path",
    "calm_threads",
    "errors_on_one_line",
    "importing",
    "path_in",
    "run_and_leave",
    "same_place",
]

_WANT_OF_MEMORY: Final = re.compile(
    "allocate memory|out of memory|failed to map segment|start new thread", re.IGNORECASE
)
_REASON: Final = 200  # characters

HELP = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


def absolute_path(source: str) -> str:
    """``source`` as an absolute path where something lies there, else as it is: a name on the Hub, a URL.

    Weights of open_clip may name a file behind their architecture (``ViT-L-14:FILE``).
    """
    architecture, colon, file = source.partition(":")
    if os.path.exists(source):
        return os.path.abspath(source)
    return f"{architecture}:{os.path.abspath(file)}" if colon and os.path.isfile(file) else source


def same_place(one: str | None, other: str | None) -> bool:
    """Whether both name the same folder, file or model."""
    if one is None or other is None:
        return one is other
    return os.path.realpath(absolute_path(one)) == os.path.realpath(absolute_path(other))


def path_in(source: str) -> str:
    """The path of ``source``, which may follow the architecture of open_clip."""
    _, colon, file = source.partition(":")
    return file if colon and not os.path.exists(source) else source


class Program(click.Command):
    """A command that refuses an option given twice, unless it may be repeated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does."""
        refuse_repeats(self, ctx, args)
        return super().parse_args(ctx, args)


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """End the program with one line and exit code 2 (`UsageError`) or 1 (any other `MimicitError`).

    A missing package is one line too (the programs need an extra), and so is want of memory.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        click.echo(f"otter_train: {error}; install what training needs: pip install 'mimicit[train]'", err=True)
        sys.exit(1)
    except (ImportError, MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, MemoryError) and _WANT_OF_MEMORY.search(reason) is None:
            raise
        click.echo(f"otter_train: {_about_memory(reason)}", err=True)
        sys.exit(1)
    except MimicitError as error:
        click.echo(f"otter_train: {' '.join(str(error).split())}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _about_memory(reason: str) -> str:
    reason = reason[:_REASON]
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses == resource.RLIM_INFINITY:
        return f"memory ran out ({reason}); a smaller --batch-size or --batch-tokens, or fewer --workers, take less"
    return (
        f"ulimit -v leaves this process {addresses >> 20:,} MiB of addresses, which is too few ({reason}); raise it, "
        "and limit memory itself instead (a cgroup, systemd-run, Slurm)"
    )


def calm_threads() -> None:
    """Let OpenMP threads spin only briefly while they wait, and torch say less; call it before torch is imported.

    By default threads spin for long, and one other busy process on the machine makes a step ten times slower. With this
    a step takes twice as long then, and is as fast as ever on a quiet machine. What torch says
    of calls in torchao that are out of date, wherever that is installed, is nothing to act on.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


@contextmanager
def importing() -> Iterator[None]:
    """Import large libraries in the block, without a search for garbage that they do not make: a fifth of their time.

    What is there at the end of the block is never searched again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def run_and_leave(program: Callable[[], Any]) -> None:
    """Run ``program`` and end the process with its exit code.

    What was registered for the end is done, but the modules of torch are not taken apart, which takes a second or two.
    """
    code = 0
    try:
        program()
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise  # with a message that Python prints
        code = end.code or 0
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
