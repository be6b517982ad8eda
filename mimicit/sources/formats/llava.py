"""LLaVA-Instruct and its kin: a JSON array (or JSON Lines) of records with ``conversations`` about a picture or clip.

Every question with its answer is one triplet. The id is that of the record, with ``_0``, ``_1``, ... if a record
holds several. A record's media belong to the turns whose questions hold the placeholders (``<image>``; for a clip also
``<video>``), and to the turns after them until others are shown. There must be as many placeholders as media; with no
placeholder at all, the media are shown first, which is noted.

Accepted besides the documented form: whole numbers as ids and no id at all, no picture, a list of pictures (``image``
or ``images``), ``video`` and ``videos``, a placeholder at the end, a first turn that is not a question (skipped), the
names ``messages``, ``role`` and ``content`` of chat files, their lists of parts, the speakers of ShareGPT (what
``system`` says goes to ``meta``), and extra keys, which go to ``meta``. A record with sound is rejected: the sound is
what its questions are about. Records without a conversation are read by the names of their fields (see `rows`).

InternVL lists the sets that it trains on in a JSON object that says where the records of each lie, and its pictures::

    {"sharegpt4v": {"root": "playground/data/", "annotation": "playground/opensource/sharegpt4v.jsonl",
                    "data_augment": false, "repeat_time": 1, "length": 665058}}

Its records are of the same kind, and the paths in them are relative to ``root``. Both places are relative to the folder
of the list, else to ``--src``; their leading folders may be those of another machine. ``repeat_time``, how often a set
is shown in an epoch, is left to the weights of a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.containers.json_rows import json_rows, parsed
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Needs, SourceFormat, SourceSpec
from mimicit.sources.items import Item
from mimicit.sources.records.claiming import claim_files
from mimicit.sources.records.conversations import is_conversation
from mimicit.sources.records.pieces import split_json
from mimicit.sources.records.row_media import MediaFinder
from mimicit.sources.records.rows import PlaceholderOptions, RowReader
from mimicit.sources.sniff import Fields, Head

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


def _fits(root: Root, path: str, fields: Fields) -> bool:
    return is_conversation(fields)


_claim_files: Final = claim_files("llava", "JSON records with conversations", _fits)


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    options = PlaceholderOptions(**spec.options)  # type: ignore[arg-type]
    for path in spec.paths:
        finder = MediaFinder(root, folder_of(path))
        reader = RowReader(
            spec=spec, finder=finder, require_placeholders=bool(options.require_placeholders), keeps_nulls=True
        )
        yield from reader.items(json_rows(root, path, spec.piece))


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    sets = listed_sets(root, heads)
    return [
        _as_listed(spec, *sets[spec.files[0]]) if spec.files[0] in sets else spec
        for spec in _claim_files(root, heads, force=force)
        if not is_list(heads[spec.files[0]])
    ]


def _as_listed(spec: SourceSpec, path: str, folder: str) -> SourceSpec:
    """``spec`` as the list at ``path`` describes it, with pictures in the ``folder``."""
    media_roots = {"": folder} if folder else {}
    return replace(spec, why=f"{spec.why}, listed in {path}", beside=(*spec.beside, path), media_roots=media_roots)


LLAVA: Final = SourceFormat(
    claim=_claim,
    read=_read,
    split=split_json,
    ids_repeat=True,
    by_record=True,
    needs=(Needs(("array", "lines"), (("conversations[].from", "messages[].role"),)),),
    options=PlaceholderOptions,
)
