"""Pictures that a record names and that lie in a tar: which archives hold them, and where in there each one is.

Its pictures wait on disk for those that name them (`mimicit.sources.format.Join`), and `tar_members` limits how many an
archive has, so memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Final

import orjson

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.tar_members import tar_members
from mimicit.sources.files.media_names import folder_of, named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.format import Lookup, SourceSpec
from mimicit.sources.items import Entry, InTar, Reject
from mimicit.sources.sniff import Head

__all__ = ["TAR", "picture_tars", "repeated_picture", "tarred_entries", "tarred_picture"]

TAR: Final = ".tar"
_MEMBERS_LOOKED_AT: Final = 64


def picture_tars(root: Root, heads: Mapping[str, Head], folders: Collection[str]) -> list[str]:
    """The archives right in ``folders`` that hold pictures and, as far as a look goes, nothing else; sorted."""
    found = [path for path in heads if path.lower().endswith(TAR) and folder_of(path) in folders]
    return sorted(path for path in found if _holds_pictures(root, path))


def tarred_entries(spec: SourceSpec, root: Root, path: str, *, prefix: str = "") -> Iterator[Entry | Reject]:
    """The pictures of the tar at ``path``, to be looked up by ``prefix`` and their names without folders.

    Yields a reject of scope ``media`` for every member that is refused.
    """
    for member in tar_members(root, path):
        if isinstance(member, RejectedError):
            yield spec.reject(member.reason, place=path, detail=member.detail, scope="media")
        elif named_kind(member.name) == "image":
            where = orjson.dumps([path, member.offset, member.size]).decode()
            yield Entry(prefix + member.name.rpartition("/")[2], where, f"{path}#{member.name}")


def repeated_picture(spec: SourceSpec, entry: Entry) -> Reject:
    """The reject of one of the `tarred_entries` whose name came before."""
    name = entry.place[len(f"{orjson.loads(entry.value)[0]}#") :]
    detail = f"a picture called {name!r} was there before; the first one keeps the name"
    return spec.reject("duplicate_id", place=entry.place, detail=detail, scope="media")


def tarred_picture(table: Lookup, name: str) -> InTar | None:
    """Where the picture lies that is one of the `tarred_entries` as ``name`` (with its prefix)."""
    where = table.get(name)
    return None if where is None else InTar(*orjson.loads(where))


def _holds_pictures(root: Root, path: str) -> bool:
    try:
        members = list(islice(tar_members(root, path), _MEMBERS_LOOKED_AT))
    except SourceError:
        return False
    names = [member.name for member in members if not isinstance(member, RejectedError)]
    return bool(names) and all(named_kind(name) == "image" for name in names)
