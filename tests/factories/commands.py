"""The command line in this process, as a program that is started would run it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from mimicit.cli import main
from tests.factories.engines import InProcess


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def mimicit(*arguments: str | Path, cwd: Path | None = None) -> Done:
    """Run ``mimicit`` with ``arguments``; an error that the program would show as a traceback is raised here.

    The tasks of a build run in this process, too.
    """
    with contextlib.chdir(cwd or "."), pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimicit.pipeline.engines.local.LocalEngine", lambda workers: InProcess())
        done = CliRunner().invoke(main, [*map(str, arguments)], prog_name="mimicit", catch_exceptions=False)
    return Done(done.exit_code, done.stdout, done.stderr)
