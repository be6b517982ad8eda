"""Read pretrained parts from a local folder, or by a name on the Hub; neither is ever taken for the other.

Kinds of models that other installed packages add are registered before anything is read or built.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Final

from mimicit import plugins
from mimicit.errors import TrainError, UsageError

_NAME: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_REASON: Final = 300  # characters; transformers lists every class that it knows


def is_path(source: str) -> bool:
    """Whether ``source`` is a path, even of nothing: it exists here, or cannot be a name on the Hub."""
    return os.path.exists(source) or _NAME.fullmatch(source) is None


@cache
def register_added_models() -> None:
    """Let installed packages register their kinds of models with transformers and `otter_train.model.vision`, once.

    `UsageError` names a package that cannot.
    """
    for name, register in plugins.added(plugins.MODELS, None, ()).items():
        try:
            register()
        except Exception as error:  # whatever the package does
            reason = " ".join(str(error).split())[:_REASON]
            raise UsageError(f"{plugins.MODELS}: {name}: {type(error).__name__}: {reason}") from error


@contextmanager
def quiet_downloads() -> Iterator[None]:
    """Silence the Hub library's log of its retries: the final error says what was wrong."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers for reading and writing weights."""
    from transformers.utils import logging as their_logging  # a second to import

    was_on = their_logging.is_progress_bar_enabled()
    their_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            their_logging.enable_progress_bar()


def read_pretrained(kind: Any, source: str | Path, what: str, **options: Any) -> Any:
    """``kind.from_pretrained(source)``, called ``what`` (say "configuration") in errors; runs no code from there.

    `UsageError` if ``source`` is a path and nothing is there, `TrainError` if ``what`` cannot be read from it
    or downloaded; both messages are one line. Only a download shows bars.
    """
    register_added_models()
    place = str(source)
    found = os.path.exists(place)
    if not found and (isinstance(source, Path) or is_path(place)):
        raise UsageError(f"{place}: no such folder")
    try:
        with quiet_downloads(), without_bars() if found else nullcontext():
            return kind.from_pretrained(place, local_files_only=found, **options)
    except Exception as error:  # of a file, of transformers, or of whatever library fetches what has a name
        where = "" if found else ", neither as a folder here nor as a name on the Hub"
        reason = " ".join(str(error).split())[:_REASON] or type(error).__name__
        raise TrainError(f"{place}: no {what} can be read{where} ({reason})") from None
