"""The training list of Otter: a YAML file that says which sets of MIMIC-IT are trained on, and with how many records.

::

    IMAGE_TEXT:
      LADD:
        mimicit_path: LA/LADD_instructions.json
        images_path: LA/LA.json
        train_config_path: LA/LADD_train.json
        num_samples: -1
        task_description: A talk about a picture.

Each name is one source. The group says what several pictures of a record are: the frames of a clip in VIDEO_TEXT,
pictures in the other groups; TEXT_ONLY shows no pictures. A path is relative to the folder of the list, else to
``--src``; its leading folders may be those of another machine. ``num_samples`` limits the queries (-1: all).

The file is read as plain scalars in mappings. Aliases, which could make a few bytes a gigabyte, tags and documents of
any other shape are refused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.sniff import Head

if TYPE_CHECKING:
    import yaml

_GROUPS: Final = ("IMAGE_TEXT", "TEXT_ONLY", "VIDEO_TEXT", "IMAGE_TEXT_IN_CONTEXT")
_MAX_BYTES: Final = 1 << 20
_MAX_DEPTH: Final = 8
_PATHS: Final = ("mimicit_path", "train_config_path", "images_path")
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL", "None"})


@dataclass(frozen=True, slots=True)
class ListedSet:
    """One entry of a list.

    ``files`` are the files that it names, the instructions first; ``fault`` says in words why they cannot be used.
    ``limit`` is the largest number of queries, None for all.
    """

    name: str
    group: str
    files: tuple[str, ...] = ()
    limit: int | None = None
    fault: str = ""


def is_list(head: Head) -> bool:
    """Whether the file with this head is a training list."""
    return head.kind == "yaml" and "mimicit_path" in head.fields


def listed_sets(root: Root, path: str, files: Collection[str]) -> list[ListedSet]:
    """The sets of the list at ``path``, in its order; ``files`` are all files that exist.

    `SourceError` if it is not a list.
    """
    return [
        _set_of(name, group, fields, folder_of(path), files)
        for group, sets in _groups(root, path).items()
        for name, fields in sets.items()
    ]


def _set_of(name: str, group: str, fields: dict[str, str], folder: str, files: Collection[str]) -> ListedSet:
    try:
        limit = _limit(fields.get("num_samples", "-1"))
        named = [fields.get(key, "") for key in _PATHS]
        if named[0] in _NULLS:
            raise RejectedError("malformed", "it has no mimicit_path")
        found: list[str] = []
        for key, written in zip(_PATHS, named, strict=True):
            if written not in _NULLS:
                found += _found(key, written, folder, files)
    except RejectedError as error:
        return ListedSet(name, group, fault=error.detail)
    return ListedSet(name, group, tuple(dict.fromkeys(found)), limit)


def _limit(written: str) -> int | None:
    try:
        number = int(written)
    except ValueError:
        raise RejectedError("malformed", f"num_samples is {written!r}, no whole number") from None
    if number == 0 or number < -1:
        raise RejectedError("malformed", f"num_samples is {number}; write -1 for all, or leave the set out for none")
    return None if number == -1 else number


def _found(key: str, written: str, folder: str, files: Collection[str]) -> list[str]:
    """The file that ``written`` names, or the parts in a folder of that name; its longest suffix that exists wins."""
    steps = [step for step in written.split("/") if step not in ("", ".")]
    if ".." in steps:
        steps = steps[len(steps) - steps[::-1].index("..") :]
    for start in range(len(steps)):
        for base in dict.fromkeys((folder, "")):
            path = "/".join((base, *steps[start:])).lstrip("/")
            if path in files:
                return [path]
            if parts := sorted(
                file for file in files if file.startswith(f"{path}/") and "/" not in file[len(path) + 1 :]
            ):
                return parts
    raise RejectedError("missing_file", f"its {key} {written!r} is not under the source folder")


def _groups(root: Root, path: str) -> dict[str, dict[str, dict[str, str]]]:
    import yaml

    with open_text(root, path) as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise SourceError(f"{path}: a training list of more than {_MAX_BYTES} bytes is refused")
    try:
        _refuse_tricks(text, path)
        document = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not valid YAML: {' '.join(str(error).split())[:300]}") from None
    groups = {}
    for group, sets in _members(document, path, "the list").items():
        if group not in _GROUPS:
            raise SourceError(f"{path}: no group {group!r}; there are: {', '.join(_GROUPS)}")
        groups[group] = {
            name: {
                key: _scalar(value, path, f"{group}.{name}.{key}") for key, value in _members(one, path, name).items()
            }
            for name, one in _members(sets, path, group).items()
        }
    return groups


def _refuse_tricks(text: bytes, path: str) -> None:
    """Raise `SourceError` for anchors and deep nesting, from the events alone, before anything is built of them."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise SourceError(f"{path}: anchors and aliases are refused; write the set out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise SourceError(f"{path}: nested more than {_MAX_DEPTH} deep; no training list is")


def _members(node: yaml.Node | None, path: str, what: str) -> dict[str, yaml.Node]:
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise SourceError(f"{path}: {what} must be a mapping")
    members: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = _scalar(key, path, f"a key of {what}")
        if name in members:
            raise SourceError(f"{path}: {what} has {name!r} twice")
        members[name] = value
    return members


def _scalar(node: yaml.Node, path: str, what: str) -> str:
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise SourceError(f"{path}: {what} must be a single value")
    return str(node.value)
