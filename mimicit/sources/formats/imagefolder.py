"""Folders named after classes, the image folders of `datasets`: ``train/cat/1.jpg`` shows a cat.

The answer is the name of the folder, which `datasets` takes as the label; the instruction comes from the pool of
captions, and the id is the path. Read only if asked for (``--format imagefolder``), since most folders are named for
other things. Each folder that holds such folders (``train``, ``test``) is a source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mimicit.errors import RejectedError
from mimicit.sources.files.media_names import folder_of, named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceFormat, SourceSpec
from mimicit.sources.items import InFile, Item, MediaRef
from mimicit.sources.records.captions import captioned
from mimicit.sources.records.text import checked_id
from mimicit.sources.sniff import Head


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    if not force:
        return []
    splits: dict[str, list[str]] = {}
    for path, head in sorted(heads.items()):
        if head.kind in ("image", "video") and (named := folder_of(path)):
            splits.setdefault(folder_of(named), []).append(path)
    return [
        SourceSpec(
            name=split or "folder",
            format="imagefolder",
            files=tuple(paths),
            why=f"pictures or clips in {len(set(map(folder_of, paths)))} folders named for classes",
        )
        for split, paths in splits.items()
    ]


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.paths:
        medium = MediaRef(kind=named_kind(path) or "image", parts=(InFile(path),), origin=path)
        name = folder_of(path).rpartition("/")[2]
        try:
            yield captioned(name, id=checked_id(path), place=path, media=medium, meta={})
        except RejectedError as error:
            yield spec.reject(error.reason, place=path, id=path, detail=error.detail)


IMAGEFOLDER: Final = SourceFormat(claim=_claim, read=_read, of_media=True)
