"""The command line: all commands as one program, in which every expected error ends as one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Any, Final

import click

from mimicit.commands.annotating import annotate
from mimicit.commands.building import build, publish
from mimicit.commands.exchanging import export, index, verify
from mimicit.commands.groups import EXIT_FAILED, EXIT_USAGE, TaskGroup
from mimicit.commands.looking import compare, inspect, rejects, view
from mimicit.errors import MimicitError, UsageError
from mimicit.interrupts import ending_at_the_second

_TASKS: Final = {
    "Build": {
        "annotate": "mimicit annotate --src raw/ --out written/",
        "build": "mimicit build --src raw/ --out shards/",
        "publish": "mimicit publish shards/",
        "index": "mimicit index laion-part/",
    },
    "Look": {
        "inspect": "mimicit inspect shards/shard-000.tar",
        "view": "mimicit view shards/",
        "rejects": "mimicit rejects shards/",
        "compare": "mimicit compare old/ new/",
    },
    "Check and take elsewhere": {
        "verify": "mimicit verify shards/",
        "export": "mimicit export shards/ --to files --out x/",
    },
}

_CANNOT_BE_WRITTEN: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class _Group(TaskGroup):
    """Commands that turn every expected error into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click does, and it fails on one line where what it prints cannot be written."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.errno not in _CANNOT_BE_WRITTEN or error.filename is not None:
                raise
            _drop_output()
            with suppress(OSError):  # perhaps this cannot be written either
                _fail(f"cannot write what it prints: {error.strerror}", EXIT_FAILED)
            sys.exit(EXIT_FAILED)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with ending_at_the_second():
                return super().invoke(ctx)
        except UsageError as error:
            _fail(str(error), EXIT_USAGE)
        except MimicitError as error:
            _fail(str(error), EXIT_FAILED)
        except MemoryError:
            _fail("out of memory; give it more, or fewer --workers", EXIT_FAILED)
        except BrokenPipeError:
            _drop_output()  # the reader went away
            sys.exit(EXIT_FAILED)


def _drop_output() -> None:
    """Let the rest of what was printed go nowhere: Python tries to write it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    click.echo(f"mimicit: {line}", err=True)
    sys.exit(code)


@click.group(
    cls=_Group,
    tasks=_TASKS,
    epilog="mimicit COMMAND --help has the options and more examples. python -m otter_train --help is about training."
    " Exit codes: 0 fine, 1 findings or a failed job, 2 wrong usage.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="mimicit")
def main() -> None:
    """Build, inspect and verify multi-modal in-context instruction data."""


for _command in (annotate, build, compare, export, index, inspect, publish, rejects, verify, view):
    main.add_command(_command)
