"""What the programs of this package share: errors on one line, exit codes, calm threads, a quick start and end.

Paths of pretrained models may as well be names on the Hub or architectures of open_clip.

``--config run.toml``: the options of a run in a file, and the file that a run leaves behind to be passed again.

A file holds one value per option, or a list for those that may be given several times, under the option's name with
``_`` for ``-``::

    shards = "shards/"
    lr = 2e-5
    context_order = "shuffled"

Values reach the command line's own parser as text, so that a file and a command line mean the same and are refused with
the same words. Paths are relative to the current folder, as on the command line. The names of the other files in the
folder of a run are here, too.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import re
import resource
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from mimicit.errors import MimicitError, UsageError, hint
from mimicit.options import parse_toml, refuse_repeats
from mimicit.shards.files import write_atomically

_WANT_OF_MEMORY: Final = re.compile(
    "allocate memory|out of memory|failed to map segment|start new thread", re.IGNORECASE
)
_REASON: Final = 200  # characters

HELP = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}

CONFIG_NAME: Final = "config.json"
"""All options of the run."""

METRICS_NAME: Final = "metrics.csv"
EVAL_NAME: Final = "eval.csv"
SOURCES_NAME: Final = "sources.csv"
GATES_NAME: Final = "gates.csv"
LEFT_OUT_NAME: Final = "left_out.txt"
"""Samples that were not trained on, each with its reason."""

GUARD_NAME: Final = "guard.jsonl"
"""Steps that were left out, or would have been."""


def absolute_path(source: str) -> str:
    """``source`` as an absolute path if it exists, else unchanged: a name on the Hub, a URL.

    Weights of open_clip may name a file after their architecture (``ViT-L-14:FILE``).
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

    A missing package is one line too (the programs need an extra), and so is a lack of memory.
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


def calm_threads() -> None:
    """Let OpenMP threads spin only briefly while they wait, and torch log less; call it before torch is imported.

    By default threads spin for long, and one other busy process on the machine makes a step ten times slower. With this
    a step then takes twice as long, and is as fast as before on a quiet machine. The warnings of torch about outdated
    calls in torchao, if that is installed, call for no action.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


@contextmanager
def importing() -> Iterator[None]:
    """Import large libraries in the block without garbage collection, which finds nothing: a fifth of their time.

    Objects that exist at the end of the block are never searched again.
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

    Functions registered with `atexit` run, but the modules of torch are not torn down, which takes a second or two.
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


def read_options(path: Path, known: Collection[str], several: Collection[str] = ()) -> dict[str, str | list[str]]:
    """The options in the TOML or (``*.json``) JSON file ``path`` as text by name; those that are null are left out.

    Options in ``several`` may be lists, and become lists. `UsageError` names the file and what is wrong with it: an
    option not in ``known``, with the most similar one, or a value that is no text, number or truth value.
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


def _about_memory(reason: str) -> str:
    reason = reason[:_REASON]
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses == resource.RLIM_INFINITY:
        return f"memory ran out ({reason}); a smaller --batch-size or --batch-tokens, or fewer --workers, take less"
    return (
        f"ulimit -v leaves this process {addresses >> 20:,} MiB of addresses, which is too few ({reason}); raise it, "
        "and limit memory itself instead (a cgroup, systemd-run, Slurm)"
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
