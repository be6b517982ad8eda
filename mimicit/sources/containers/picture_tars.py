"""Pictures that a record names and that lie in a tar: which archives hold them, and where in there each one is.

The index of an archive is on disk (`DiskTable`) and `tar_members` limits its length, so memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Final

import orjson

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.disk_table import DiskTable
from mimicit.sources.containers.tar_members import tar_members
from mimicit.sources.files.media_names import folder_of, named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InTar, Reject
from mimicit.sources.sniff import Head

__all__ = ["TAR", "index_tar", "picture_tars", "tarred_picture"]

TAR: Final = ".tar"
_MEMBERS_LOOKED_AT: Final = 64


def picture_tars(root: Root, heads: Mapping[str, Head], folders: Collection[str]) -> list[str]:
    """The archives right in ``folders`` that hold pictures and, as far as a look goes, nothing else; sorted."""
    found = [path for path in heads if path.lower().endswith(TAR) and folder_of(path) in folders]
    return sorted(path for path in found if _holds_pictures(root, path))


def index_tar(spec: SourceSpec, root: Root, path: str, table: DiskTable, *, prefix: str = "") -> Iterator[Reject]:
    """Enter the pictures of the tar at ``path`` into ``table``, under ``prefix`` and their names without folders.

    Yields a reject of scope ``media`` for every member that is refused, and for a name that was entered before.
    """
    for member in tar_members(root, path):
        if isinstance(member, RejectedError):
            yield spec.reject(member.reason, place=path, detail=member.detail, scope="media")
        elif named_kind(member.name) == "image":
            where = orjson.dumps([path, member.offset, member.size]).decode()
            if not table.add(prefix + member.name.rpartition("/")[2], where):
                detail = f"a picture called {member.name!r} was there before; the first one keeps the name"
                yield spec.reject("duplicate_id", place=f"{path}#{member.name}", detail=detail, scope="media")


def tarred_picture(table: DiskTable, name: str) -> InTar | None:
    """Where the picture lies that `index_tar` has entered as ``name`` (with its prefix)."""
    where = table.get(name)
    return None if where is None else InTar(*orjson.loads(where))


def _holds_pictures(root: Root, path: str) -> bool:
    try:
        members = list(islice(tar_members(root, path), _MEMBERS_LOOKED_AT))
    except SourceError:
        return False
    names = [member.name for member in members if not isinstance(member, RejectedError)]
    return bool(names) and all(named_kind(name) == "image" for name in names)
