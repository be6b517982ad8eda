"""Which files are pictures or clips, and how a path in a record becomes a `MediaRef`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.base import InFile, MediaRef
from mimicit.sources.root import Root
from mimicit.sources.text import shown

__all__ = ["folder_of", "media_refs", "named_kind"]

# Some cannot be decoded (SVG, HEIC): they are still pictures, and the build rejects them as unsupported by name.
_PICTURES: Final = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".ppm",
        ".svg",
        ".tif",
        ".tiff",
        ".webp",
    }
)
_CLIPS: Final = frozenset(
    {
        ".3gp",
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".webm",
        ".wmv",
    }
)


def named_kind(path: str) -> MediaKind | None:
    """The kind of medium that the name of the file says, or None if it says none."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _PICTURES:
        return "image"
    return "video" if suffix in _CLIPS else None


def folder_of(path: str) -> str:
    """The folder that holds ``path``, relative to the root; empty for the root itself."""
    return path.rpartition("/")[0]


def media_refs(
    root: Root, paths: Iterable[object], *, beside: Sequence[str], kind: MediaKind | None = None
) -> tuple[MediaRef, ...]:
    """The media that a record names by ``paths``, relative to the folders ``beside`` (see `Root.resolve`).

    Without a ``kind``, a name that does not say it is a clip is taken for a picture. `RejectedError` as `Root.resolve`,
    or ``malformed`` where a path is not text.
    """
    refs = []
    for path in paths:
        if not isinstance(path, str):
            raise RejectedError("malformed", f"a medium must be named by its path, not {shown(path)}")
        clean = root.resolve(path, beside=beside)
        refs.append(MediaRef(kind=kind or named_kind(clean) or "image", parts=(InFile(clean),), origin=clean))
    return tuple(refs)
