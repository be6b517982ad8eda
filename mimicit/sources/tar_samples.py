"""The samples of a tar: neighbouring members whose names are the same up to the first dot, as WebDataset has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.root import Root
from mimicit.sources.tar_members import TarMember, tar_members

__all__ = ["TarSample", "read_member", "tar_samples"]

_MAX_FILES: Final = 10_000


@dataclass(frozen=True, slots=True)
class TarSample:
    """One sample: ``key`` is the common name, folder and all, and ``files`` are (suffix in lower case, place)."""

    key: str
    files: tuple[tuple[str, TarMember], ...]

    def file(self, suffix: str) -> TarMember | None:
        """The file with this suffix, if there is one."""
        return next((member for name, member in self.files if name == suffix), None)


def tar_samples(root: Root, path: str) -> Iterator[TarSample | RejectedError]:
    """The samples of the tar at ``path`` in order, and the members that are refused (see `tar_members`).

    Hidden files and those called ``__...__`` are passed over. `SourceError` as `tar_members`. Of a sample with more
    than 10,000 files, the rest is refused.
    """
    key = ""
    files: list[tuple[str, TarMember]] = []
    try:
        for member in tar_members(root, path):
            if isinstance(member, RejectedError):
                yield member
                continue
            folder, slash, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            if not stem or (stem.startswith("__") and stem.endswith("__")):
                continue
            if f"{folder}{slash}{stem}" != key:
                if files:
                    yield TarSample(key, tuple(files))
                key, files = f"{folder}{slash}{stem}", []
            if len(files) < _MAX_FILES:
                files.append((suffix.lower(), member))
            else:
                yield RejectedError("malformed", f"member {member.name!r}: its sample has more than {_MAX_FILES} files")
    except SourceError:
        if files:  # for a first look, what was there before the fault is telling
            yield TarSample(key, tuple(files))
        raise
    if files:
        yield TarSample(key, tuple(files))


def read_member(root: Root, path: str, member: TarMember, *, most: int) -> bytes:
    """The bytes of ``member`` of the tar at ``path``.

    `RejectedError` ``too_long`` for more than ``most``, and ``malformed`` where the archive ends before.
    """
    if member.size > most:
        raise RejectedError("too_long", f"{member.name!r} has {member.size} bytes, more than {most}")
    with root.open_input(path) as file:
        if member.offset + member.size > os.fstat(file.fileno()).st_size:
            raise RejectedError("malformed", f"{member.name!r} lies beyond the end of the archive")
        file.seek(member.offset)
        return file.read(member.size)
