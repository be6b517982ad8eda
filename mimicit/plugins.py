"""What other packages add by entry points: formats to read, strategies for context, embedders, formats to export to,
and kinds of models.

A package registers an object under one of the groups below, by the name that the command line will know::

    [project.entry-points."mimicit.sources"]
    quiz = "quiz_format:QUIZ"

docs/extending.md has an example of each.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from mimicit.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

SOURCES: Final = "mimicit.sources"
CONTEXT: Final = "mimicit.context"
EXPORTERS: Final = "mimicit.exporters"
TEXT_EMBEDDERS: Final = "mimicit.text_embedders"
IMAGE_EMBEDDERS: Final = "mimicit.image_embedders"
MODELS: Final = "otter_train.models"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")


def added_names(group: str) -> list[str]:
    """The names that installed packages register in ``group``, sorted; the packages are not imported."""
    return sorted(_found(group))


def added(group: str, kind: type[Any] | None, taken: Collection[str]) -> dict[str, Any]:
    """What installed packages register in ``group``, by name, in the order of names.

    `UsageError` names the package if a name is ``taken`` or is not of lower-case letters, digits and hyphens, or if
    the registered object cannot be imported or is not a ``kind`` (None: not callable).
    """
    found = {}
    for name, entry in sorted(_found(group).items()):
        if not _NAME.fullmatch(name):
            raise _refused(entry, "the name must be 1 to 40 lower-case letters, digits and hyphens")
        if name in taken:
            raise _refused(entry, "mimicit has one of this name itself")
        try:
            found[name] = entry.load()
        except Exception as error:  # whatever the package does when it is imported
            raise _refused(entry, f"{type(error).__name__}: {error}") from error
        if not (callable(found[name]) if kind is None else isinstance(found[name], kind)):
            wanted = "a function" if kind is None else f"a {kind.__name__}"
            raise _refused(entry, f"{entry.value} is a {type(found[name]).__name__}, not {wanted}")
    return found


@cache
def _found(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # brings the package email, not needed by the help

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        if found.setdefault(entry.name, entry).value != entry.value:
            raise _refused(entry, f"{_package(found[entry.name])} has registered this name too")
    return found


def _refused(entry: EntryPoint, why: str) -> UsageError:
    return UsageError(f"{entry.group}: {entry.name} of {_package(entry)}: {why}; upgrade or uninstall that package")


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a package"
