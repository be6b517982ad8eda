"""The list of sets that InternVL trains on: a JSON object that says where the records of each lie, and its pictures.

::

    {"sharegpt4v": {"root": "playground/data/", "annotation": "playground/opensource/sharegpt4v.jsonl",
                    "data_augment": false, "repeat_time": 1, "length": 665058}}

The records are those of LLaVA, and the paths in them are relative to ``root``. Both places are relative to the folder
of the list, else to ``--src``; their leading folders may be those of another machine. ``repeat_time``, how often a set
is shown in an epoch, is left to the weights of a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.containers.json_rows import parsed
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.sniff import Head

_MAX_BYTES: Final = 1 << 20


def listed_sets(root: Root, heads: Mapping[str, Head]) -> dict[str, tuple[str, str]]:
    """(list, folder of the pictures) by the file of records, of all lists among ``heads``.

    The folder is empty if there is none of that name, or if lists differ in it.
    """
    found: dict[str, tuple[str, str]] = {}
    for path, head in sorted(heads.items()):
        if is_list(head):
            for annotation, folder in _sets(root, path, heads):
                _, other = found.get(annotation, (path, folder))
                found[annotation] = path, folder if other == folder else ""
    return found


def is_list(head: Head) -> bool:
    """Whether the file with this ``head`` is such a list."""
    names = [name for name, kind in head.fields.items() if kind == "object" and "." not in name and "[" not in name]
    return (
        head.kind in ("object", "lines")
        and sum(head.counts) == 1
        and any({f"{name}.root", f"{name}.annotation"} <= head.fields.keys() for name in names if name)
    )


def _sets(root: Root, path: str, heads: Mapping[str, Head]) -> Iterator[tuple[str, str]]:
    with open_text(root, path) as file:
        text = file.read(_MAX_BYTES + 1)
    try:
        sets: Any = parsed(text if len(text) <= _MAX_BYTES else None)
    except RejectedError:
        return  # it stays unused, and is named
    for entry in sets.values():
        if not isinstance(entry, dict):
            continue
        folder, annotation = entry.get("root"), entry.get("annotation")
        if isinstance(folder, str) and isinstance(annotation, str):
            file_there = _longest_end(annotation, folder_of(path), heads.__contains__)
            if file_there:
                yield file_there, _longest_end(folder, folder_of(path), root.has_folder)


def _longest_end(written: str, beside: str, is_there: Callable[[str], bool]) -> str:
    """The longest end of the path ``written`` that is there, in the folder ``beside`` or the root; empty if none is."""
    steps = [step for step in written.replace("\\", "/").split("/") if step not in ("", ".")]
    if ".." in steps:
        steps = steps[len(steps) - steps[::-1].index("..") :]
    ends = ("/".join(steps[start:]) for start in range(len(steps)))
    places = (f"{base}/{end}".lstrip("/") for end in ends for base in dict.fromkeys((beside, "")))
    return next(filter(is_there, places), "")
