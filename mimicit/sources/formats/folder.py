"""A folder of pictures or clips, each with a sidecar of the same stem: ``cat.jpg`` with ``cat.txt`` or ``cat.json``
(also ``cat.jpg.txt`` or ``cat.jpg.json``).

- ``.txt`` is the caption or answer; its instruction comes from a fixed pool, picked by a hash of the id. If each of its
  lines is a question, a tab, and Yes or No (as in MME), these are what is asked.
- ``.json`` is one object or a list of objects with ``answer`` and optionally ``id``, ``instruction``,
  ``related``, ``meta``; other fields go to ``meta``. Next to a ``.txt``, an object without ``answer`` describes the
  picture (as img2dataset writes it) and becomes the caption's ``meta``.
- A folder of frames (see `mimicit.sources.files.frame_folders`) is a clip: ``run/0001.jpg``, ``run/0002.jpg``, ... with
  ``run.txt``, or with ``run.json``, one object in which ``fps`` may give the frames per second (else one).
- The id of a triplet is the path of its medium relative to ``--src``, with ``#0``, ``#1``, ... for the entries of a
  list.

One source for each folder right under ``--src``, and one for the files in ``--src`` itself. Only folders that hold
at least one pair are read: in them, media without a sidecar and sidecars without a medium are rejects.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.containers.json_rows import MAX_RECORD_BYTES, parsed
from mimicit.sources.containers.unpacked import as_utf8, open_start
from mimicit.sources.files.frame_folders import frames_in, frames_ref
from mimicit.sources.files.media_names import folder_of, frame_rate, named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceFormat, SourceSpec
from mimicit.sources.items import InFile, Item, MediaRef, Row
from mimicit.sources.records.row_media import MediaFinder
from mimicit.sources.records.rows import RowReader, describes_itself
from mimicit.sources.records.text import MAX_TEXT_CHARACTERS
from mimicit.sources.sniff import Head

_MAX_CAPTION_BYTES: Final = 4 * MAX_TEXT_CHARACTERS
_NO_SIDECAR: Final = "a sidecar must hold an object with an answer, or a list of them"
_YES_OR_NO: Final = re.compile(r"([^\t]*\?[^\t]*)\t(yes|no)", re.IGNORECASE)
_LISTED_BYTES: Final = 64 << 10  # of a text, looked through for names of frames
_JSON: Final = frozenset({"array", "lines", "object"})
_MEDIA_FIELDS: Final = frozenset({"media", "image", "images", "video"})


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    sources: dict[str, list[str]] = {}
    folders = _by_folder(heads)
    clips = {
        folder: [*told, *frames]
        for folder, (frames, sidecars) in _frame_folders(folders).items()
        if (told := _telling(root, sidecars, heads, frames)) or not sidecars
    }
    with_clips = {folder_of(folder) for folder, files in clips.items() if not named_kind(files[0])}
    for folder, files in clips.items():
        if folder_of(folder) in with_clips:
            sources.setdefault(_top_folder(f"{folder_of(folder)}/x".lstrip("/")), []).extend(files)
    taken = {path for files in sources.values() for path in files}
    for folder, stems in folders.items():
        if folder in with_clips or any(media and _sidecars(others, heads) for media, others in stems.values()):
            for media, others in stems.values():
                files = [*media, *(_sidecars(others, heads) if media else _orphans(others, heads))]
                some = next(iter((*media, *others)))
                sources.setdefault(_top_folder(some), []).extend(path for path in files if path not in taken)
    why = "pictures or clips beside text files of the same stem"
    return [
        SourceSpec(name=top or "folder", format="folder", files=tuple(sorted(files)), why=why)
        for top, files in sorted(sources.items())
        if files
    ]


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    folders = _by_folder(spec.files)
    clips = _frame_folders(folders)
    with_clips = {folder_of(folder) for folder, (_, sidecars) in clips.items() if sidecars}
    for folder, stems in folders.items():
        if folder in clips and folder_of(folder) in with_clips:
            yield from _clip_triplets(spec, root, folder, *clips[folder])
            continue
        for stem, (media, sidecars) in stems.items():
            if not media and not clips.get(posixpath.join(folder, stem)):
                for path in sidecars:
                    yield spec.reject("missing_file", place=path, detail=f"there is no picture or clip {stem}.*")
            for path in media:
                if sidecars:
                    medium = MediaRef(kind=named_kind(path) or "image", parts=(InFile(path),), origin=path)
                    yield from _triplets(spec, root, medium, sidecars)
                else:
                    yield spec.reject("missing_sidecar", place=path, id=path, detail=f"no {stem}.txt, no {stem}.json")


FOLDER: Final = SourceFormat(claim=_claim, read=_read, of_media=True)


def _clip_triplets(
    spec: SourceSpec, root: Root, folder: str, frames: Sequence[str], sidecars: Sequence[str]
) -> Iterator[Item]:
    """The triplets of the clip whose ``frames`` (paths) lie in ``folder``."""
    if not sidecars:
        yield spec.reject("missing_sidecar", place=folder, id=folder, detail=f"no {folder}.txt, no {folder}.json")
        return
    try:
        described = (_fields(root, path) for path in sidecars if not path.lower().endswith(".txt"))
        fields = next(filter(None, described), {})
        medium = frames_ref(folder, [frame.rpartition("/")[2] for frame in frames], frame_rate(fields))
    except RejectedError as error:
        yield spec.reject(error.reason, place=sidecars[0], id=folder, detail=error.detail)
    else:
        yield from _triplets(spec, root, medium, sidecars)


def _triplets(spec: SourceSpec, root: Root, medium: MediaRef, sidecars: Iterable[str]) -> Iterator[Item]:
    """The triplets about ``medium``: at least one triplet or reject for each sidecar, unless it only gives the meta."""
    reader = RowReader(spec=spec, finder=MediaFinder(root, folder_of(medium.origin)), own_media=True)
    path, media = medium.origin, (medium,)
    captions = [sidecar for sidecar in sidecars if sidecar.lower().endswith(".txt")]
    description: dict[str, Any] = {}
    for sidecar in sidecars:
        if sidecar in captions:
            continue
        try:
            rows = _json_sidecar(root, sidecar)
        except RejectedError as error:
            yield spec.reject(error.reason, place=sidecar, id=path, detail=error.detail)
            continue
        if captions and isinstance(rows, dict) and not describes_itself(rows):
            description = rows
            continue
        several = isinstance(rows, list)
        for index, row in enumerate(rows if isinstance(rows, list) else [rows]):
            place, id = (f"{sidecar}[{index}]", f"{path}#{index}") if several else (sidecar, path)
            fields = row if isinstance(row, dict) else RejectedError("malformed", _NO_SIDECAR)
            yield from reader.items_of(Row(place, fields, None, media), id=id)
    for sidecar in captions:
        try:
            caption = _caption(root, sidecar)
        except RejectedError as error:
            yield spec.reject(error.reason, place=sidecar, id=path, detail=error.detail)
            continue
        asked = [_YES_OR_NO.fullmatch(line.strip()) for line in caption.strip().splitlines()]
        if not (asked and all(asked)):
            row = {"caption": caption, "meta": description or None}
            yield from reader.items_of(Row(sidecar, row, None, media), id=path)
            continue
        for index, match in enumerate(filter(None, asked)):
            row = {"question": match[1], "answer": match[2], "meta": description or None}
            yield from reader.items_of(Row(f"{sidecar}[{index}]", row, None, media), id=f"{path}#{index}")


def _caption(root: Root, path: str) -> str:
    with root.open(path) as file:
        data = file.read(_MAX_CAPTION_BYTES + 1)
    if len(data) > _MAX_CAPTION_BYTES:
        raise RejectedError("too_long", f"the caption has more than {_MAX_CAPTION_BYTES} bytes")
    try:
        return as_utf8(data).decode()
    except UnicodeDecodeError as error:
        raise RejectedError("malformed", f"not {error.encoding.upper()} at byte {error.start}") from None


def _json_sidecar(root: Root, path: str) -> Any:
    with root.open(path) as file:
        data = file.read(MAX_RECORD_BYTES + 1)
    try:
        value = parsed(as_utf8(data) if len(data) <= MAX_RECORD_BYTES else None)
    except UnicodeDecodeError as error:
        raise RejectedError("malformed", f"not {error.encoding.upper()} at byte {error.start}") from None
    if value == []:
        raise RejectedError("malformed", "the list of triplets is empty")
    return value


_Stems = dict[str, tuple[list[str], list[str]]]
"""(media, sidecars) of each stem of one folder; a stem goes up to the last dot of a name."""


def _by_folder(paths: Collection[str]) -> dict[str, _Stems]:
    """The media and the possible sidecars, sorted, by folder and stem.

    A sidecar whose stem is the whole name of a medium (``cat.jpg.txt``) belongs to that, after ``cat.txt``, unless a
    medium has that stem (``cat.jpg.png``). If several media share the stem ``cat``, it belongs to that alone, which
    then has the stem ``cat.jpg``; but ``cat.jpg.json``, which may hold no caption, to none beside ``cat.txt``.
    """
    media = {path for path in paths if named_kind(path) is not None}
    sidecars = {path for path in paths if path not in media and path.lower().endswith((".txt", ".json"))}
    count = Counter(map(_stem, media))
    shared = {stem for path in sidecars if count[stem := _stem(path)] > 1}
    named = {
        stem
        for path in sidecars
        if (stem := _stem(path)) in media
        and not (count[stem] or (path.lower().endswith(".json") and _stem(stem) in shared))
    }
    folders: dict[str, _Stems] = {}
    for path in sorted(media | sidecars, key=lambda path: (_stem(path) in named, path)):
        stem = path if path in media else _stem(path)
        if count[_stem(stem)] == 1 if stem in named else path in media:
            stem = _stem(stem)
        pair = folders.setdefault(folder_of(path), {}).setdefault(stem.rpartition("/")[2], ([], []))
        pair[0 if path in media else 1].append(path)
    return folders


def _stem(path: str) -> str:
    """``path`` without what follows the last dot of its name."""
    return path[: path.rfind(".")]


def _frame_folders(folders: Mapping[str, _Stems]) -> dict[str, tuple[list[str], list[str]]]:
    """Each folder that may be a clip: the paths of its frames, and the sidecars of the same name next to it, if any.

    A folder is no clip if its pictures have sidecars of their own, or if a medium next to it has its name.
    """
    found = {}
    for folder, stems in folders.items():
        media, sidecars = folders.get(folder_of(folder), {}).get(folder.rpartition("/")[2], ([], []))
        if not folder or media or any(media and others for media, others in stems.values()):
            continue
        frames = frames_in(path.rpartition("/")[2] for media, _ in stems.values() for path in media)
        if frames:
            found[folder] = ([f"{folder}/{frame}" for frame in frames], sidecars)
    return found


def _telling(root: Root, sidecars: Sequence[str], heads: Mapping[str, Head], frames: Sequence[str]) -> list[str]:
    """The ``sidecars`` about the clip of ``frames``; empty if none of them gives a caption or an answer.

    ``train.txt`` and ``train.json`` next to the pictures ``train/`` more often list those than describe a clip.
    """
    texts = [path for path in sidecars if heads[path].kind == "text" and not _lists(root, path, frames)]
    objects = {path: _fields(root, path) for path in sidecars if heads[path].kind in ("object", "lines")}
    about = {path: fields for path, fields in objects.items() if fields and not _MEDIA_FIELDS & fields.keys()}
    return [*texts, *about] if texts or any("answer" in fields for fields in about.values()) else []


def _fields(root: Root, path: str) -> dict[str, Any]:
    """The one object in the JSON file at ``path``; empty if it holds something else."""
    try:
        value = _json_sidecar(root, path)
    except RejectedError:
        return {}
    return value if isinstance(value, dict) else {}


def _lists(root: Root, path: str, frames: Iterable[str]) -> bool:
    """Whether the text file at ``path`` has lines that begin with the names of ``frames``."""
    with open_start(root, path) as file:
        lines = file.read(_LISTED_BYTES).decode("utf-8-sig", "replace").splitlines()
    names = {frame.rpartition("/")[2].rpartition(".")[0] for frame in frames}
    firsts = (re.split(r"[\s,;]", line.strip(), maxsplit=1)[0].rpartition("/")[2] for line in lines)
    return any(first in names or first.rpartition(".")[0] in names for first in firsts)


def _sidecars(paths: Iterable[str], heads: Mapping[str, Head]) -> list[str]:
    return [path for path in paths if heads[path].kind == "text" or _describes(heads[path])]


def _describes(head: Head) -> bool:
    """Whether a JSON file can be about the medium of its name alone: it does not list records that name media."""
    is_list = head.kind == "array" or (head.kind == "lines" and sum(head.counts) > 1)
    return head.kind in _JSON and not (is_list and head.any(lambda fields: not _MEDIA_FIELDS.isdisjoint(fields)))


def _orphans(paths: Iterable[str], heads: Mapping[str, Head]) -> list[str]:
    """The sidecars whose medium is absent; a JSON file counts only if it holds a triplet that names no media."""
    return [
        path
        for path in paths
        if heads[path].kind == "text"
        or (
            heads[path].kind in _JSON
            and heads[path].any(lambda fields: "answer" in fields and not _MEDIA_FIELDS & fields.keys())
        )
    ]


def _top_folder(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""
