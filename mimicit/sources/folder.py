"""A folder of pictures or clips, each with a sidecar of the same stem: ``cat.jpg`` with ``cat.txt`` or ``cat.json``.

- ``.txt`` is the caption or answer; its instruction comes from a fixed pool, picked by a hash of the id.
- ``.json`` is one object or a list of objects with ``answer`` and, if they like, ``id``, ``instruction``,
  ``related``, ``meta``; other fields go to ``meta``. Beside a ``.txt``, an object without ``answer`` describes the
  picture (as img2dataset writes it) and becomes the caption's ``meta``.
- The id of a triplet is the path of its medium relative to ``--src``, with ``#0``, ``#1``, ... for those of a list.

One source for each folder right under ``--src``, and one for the files in ``--src`` itself. Only a folder that holds
at least one pair is looked at: there, media without a sidecar and sidecars without a medium are rejects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.base import InFile, Item, MediaRef, RawTriplet, Reject, SourceFormat, SourceSpec
from mimicit.sources.json_rows import MAX_RECORD_BYTES, parsed
from mimicit.sources.media_names import folder_of, named_kind
from mimicit.sources.root import Root
from mimicit.sources.sniff import Head
from mimicit.sources.text import MAX_TEXT_CHARACTERS, checked_id
from mimicit.sources.triplet_rows import triplet_from_row

__all__ = ["FOLDER"]

_MAX_CAPTION_BYTES: Final = 4 * MAX_TEXT_CHARACTERS
_JSON: Final = frozenset({"array", "lines", "object"})
_MEDIA_FIELDS: Final = frozenset({"media", "image", "images", "video"})


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    sources: dict[str, list[str]] = {}
    for paths in _by_folder(heads).values():
        stems = _by_stem(paths)
        if any(media and _sidecars(others, heads) for media, others in stems.values()):
            for media, others in stems.values():
                files = [*media, *(_sidecars(others, heads) if media else _orphans(others, heads))]
                sources.setdefault(_top_folder(paths[0]), []).extend(files)
    why = "pictures or clips beside text files of the same stem"
    return [
        SourceSpec(name=top or "folder", format="folder", files=tuple(sorted(files)), why=why)
        for top, files in sorted(sources.items())
    ]


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for paths in _by_folder(spec.files).values():
        for stem, (media, sidecars) in _by_stem(paths).items():
            if not media:
                for path in sidecars:
                    yield spec.reject("missing_file", place=path, detail=f"there is no picture or clip {stem}.*")
            for path in media:
                if sidecars:
                    yield from _triplets(spec, root, path, sidecars)
                else:
                    yield spec.reject("missing_sidecar", place=path, id=path, detail=f"no {stem}.txt, no {stem}.json")


FOLDER: Final = SourceFormat(claim=_claim, read=_read)


def _triplets(spec: SourceSpec, root: Root, path: str, sidecars: Iterable[str]) -> Iterator[RawTriplet | Reject]:
    """The triplets of the medium at ``path``: each sidecar gives a triplet or reject at least, or the meta of one."""
    media = (MediaRef(kind=named_kind(path) or "image", parts=(InFile(path),), origin=path),)
    caption_path = next((sidecar for sidecar in sidecars if sidecar.lower().endswith(".txt")), None)
    description: dict[str, Any] = {}
    for sidecar in sidecars:
        if sidecar == caption_path:
            continue
        try:
            rows = _json_sidecar(root, sidecar)
        except RejectedError as error:
            yield spec.reject(error.reason, place=sidecar, id=path, detail=error.detail)
            continue
        if caption_path and isinstance(rows, dict) and "answer" not in rows:
            description = rows
            continue
        several = isinstance(rows, list)
        for index, row in enumerate(rows if isinstance(rows, list) else [rows]):
            place, id = (f"{sidecar}[{index}]", f"{path}#{index}") if several else (sidecar, path)
            yield _triplet(spec, row, place=place, id=id, media=media)
    if caption_path:
        try:
            row = {"answer": _caption(root, caption_path), "meta": description or None}
        except RejectedError as error:
            yield spec.reject(error.reason, place=caption_path, id=path, detail=error.detail)
        else:
            yield _triplet(spec, row, place=caption_path, id=path, media=media)


def _triplet(spec: SourceSpec, row: object, *, place: str, id: str, media: tuple[MediaRef, ...]) -> RawTriplet | Reject:
    try:
        if not isinstance(row, dict):
            raise RejectedError("malformed", "a sidecar must hold an object with an answer, or a list of them")
        if row.get("id") is not None:
            id = checked_id(row["id"])
        return triplet_from_row(row, id=id, place=place, media=media)
    except RejectedError as error:
        return spec.reject(error.reason, place=place, id=id, detail=error.detail)


def _caption(root: Root, path: str) -> str:
    with root.open(path) as file:
        data = file.read(_MAX_CAPTION_BYTES + 1)
    if len(data) > _MAX_CAPTION_BYTES:
        raise RejectedError("too_long", f"the caption has more than {_MAX_CAPTION_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RejectedError("malformed", f"not UTF-8 at byte {error.start}") from None


def _json_sidecar(root: Root, path: str) -> Any:
    with root.open(path) as file:
        data = file.read(MAX_RECORD_BYTES + 1)
    value = parsed(data.removeprefix(b"\xef\xbb\xbf") if len(data) <= MAX_RECORD_BYTES else None)
    if value == []:
        raise RejectedError("malformed", "the list of triplets is empty")
    return value


def _by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    """The paths that may take part, sorted, by the folder that holds them."""
    folders: dict[str, list[str]] = {}
    for path in sorted(paths):
        if named_kind(path) or path.lower().endswith((".txt", ".json")):
            folders.setdefault(folder_of(path), []).append(path)
    return folders


def _by_stem(paths: Iterable[str]) -> dict[str, tuple[list[str], list[str]]]:
    """(media, sidecars) of each stem of one folder; a stem goes up to the last dot of a name."""
    stems: dict[str, tuple[list[str], list[str]]] = {}
    for path in paths:
        stem = path.rpartition("/")[2].rpartition(".")[0]
        media, sidecars = stems.setdefault(stem, ([], []))
        (media if named_kind(path) else sidecars).append(path)
    return stems


def _sidecars(paths: Iterable[str], heads: Mapping[str, Head]) -> list[str]:
    return [path for path in paths if heads[path].kind == "text" or heads[path].kind in _JSON]


def _orphans(paths: Iterable[str], heads: Mapping[str, Head]) -> list[str]:
    """Sidecars whose medium is absent; a JSON file is one only if it holds a triplet that names no media itself."""
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
