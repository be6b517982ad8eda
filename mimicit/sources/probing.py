"""Where published sets keep their media: the usual folders, and the usual extensions of a name without one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.base import InFile, MediaRef
from mimicit.sources.frame_folders import frames_of_folder
from mimicit.sources.media_names import folder_of, named_kind
from mimicit.sources.root import Root

__all__ = ["CLIP_EXTENSIONS", "PICTURE_EXTENSIONS", "media_of_stem", "usual_folders"]

CLIP_EXTENSIONS: Final = (".mp4", ".mkv", ".webm", ".avi", ".mov")
PICTURE_EXTENSIONS: Final = (".jpg", ".png", ".webp", ".jpeg")
_FOLDER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64})?")


def usual_folders(root: Root, path: str, *names: str) -> tuple[str, ...]:
    """The folders in which the media of the text file ``path`` are looked for, in this order.

    Its own folder, the one above it and the root; in each, the folder itself and those called ``names`` inside, where
    there are such. Names may come out of the input: one that is no plain name of a folder is passed over.
    """
    here = folder_of(path)
    bases = dict.fromkeys((here, folder_of(here), ""))
    inner = dict.fromkeys(("", *filter(_FOLDER.fullmatch, names)))
    found = dict.fromkeys(f"{base}/{name}".strip("/") for base in bases for name in inner)
    return tuple(folder for folder in found if (root.folder / folder).is_dir())


def media_of_stem(
    root: Root, stem: str, extensions: Sequence[str], *, beside: Sequence[str], kind: MediaKind
) -> MediaRef:
    """The medium called ``stem``, which may have its extension or lack it, in one of the folders ``beside``.

    A clip may also be the folder of its frames.

    `RejectedError` as `Root.resolve`.
    """
    names = [stem] if named_kind(stem) == kind else []
    for name in (*names, *(stem + extension for extension in extensions)):
        try:
            path = root.resolve(name, beside=beside)
        except RejectedError as error:
            if error.reason != "missing_file":
                raise
        else:
            return MediaRef(kind=kind, parts=(InFile(path),), origin=path)
    folder = frames_of_folder(root, stem, beside=beside) if kind == "video" else None
    if folder is not None:
        return folder
    detail = f"there is no file {stem!r} with any of {', '.join(extensions)} in the usual folders"
    raise RejectedError("missing_file", detail)
