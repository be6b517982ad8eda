"""Media bytes under names made of their hash: safe whatever a shard says, and each distinct file once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mimicit.records import Media

__all__ = ["MediaFolder", "file_names", "stored_files"]


def file_names(media: Media) -> list[str]:
    """The name of each file of ``media``: its SHA-256 with the extension of the shard's member."""
    return [f"{digest}.{file.rpartition('.')[2]}" for file, digest in zip(media.files, media.sha256, strict=True)]


def stored_files(media: Media) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each file of ``media``, by `file_names`."""
    return zip(file_names(media), media.data, strict=True)


class MediaFolder:
    """A folder of media files; ``count`` is how many it holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.count = 0

    def add(self, media: Media) -> None:
        """Store the files that are not there yet."""
        for name, data in stored_files(media):
            path = self._folder / name
            if not path.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                self.count += 1
