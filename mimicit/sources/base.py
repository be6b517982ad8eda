"""What every importer speaks: where bytes lie (`Locator`), what a record is (`RawTriplet`), what was left out (`Reject`).

An importer is two functions behind a `SourceFormat`: ``claim`` finds the sources of its format among the files under
``--src``; ``read`` streams one source as `Item`s and holds no more than one record at a time in memory. Pictures
that a format names by id are announced as `Picture`; the build joins them with the triplets on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mimicit.records import MediaKind

if TYPE_CHECKING:
    from mimicit.sources.root import Root

__all__ = [
    "InFile",
    "InJson",
    "InParquet",
    "Item",
    "Locator",
    "MediaRef",
    "Named",
    "Picture",
    "RawTriplet",
    "Reject",
    "SourceFormat",
    "SourceSpec",
]


@dataclass(frozen=True, slots=True)
class InFile:
    """The whole file ``path`` (POSIX form, relative to ``--src``)."""

    path: str


@dataclass(frozen=True, slots=True)
class InJson:
    """Base64 text inside the file ``path``: ``length`` bytes at ``offset`` (between the quotes of a JSON string)."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class InParquet:
    """One cell of the parquet file ``path``: bytes, or base64 text."""

    path: str
    row_group: int
    row: int
    column: str


@dataclass(frozen=True, slots=True)
class Named:
    """The picture of the same source announced as `Picture` under ``ids[0]``, else ``ids[1]``, ... (known aliases)."""

    ids: tuple[str, ...]


Locator = InFile | InJson | InParquet | Named


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRef:
    """One picture or clip before it is decoded.

    ``parts`` has one locator for a picture or a clip file, and one per frame for a video that is published as
    pictures; only the latter has ``timestamps_s`` (seconds, one per part).
    """

    kind: MediaKind
    parts: tuple[Locator, ...]
    origin: str
    timestamps_s: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that triplets of the same source name by ``id``; ``place`` says where it stands, for messages."""

    id: str
    locator: Locator
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTriplet:
    """One record of a source: a triplet whose media are still references.

    ``place`` says where it stands (``file:line``, ``file#id``, ``file[index]``). ``related`` are ids in the same
    source, in published order. ``conversation`` and ``turn`` (from 0) tie the turns of one talk together.
    ``is_query`` is false for a record that the publisher lists only as context for others.
    """

    id: str
    place: str
    media: tuple[MediaRef, ...]
    instruction: str
    answer: str
    related: tuple[str, ...] = ()
    conversation: str | None = None
    turn: int = 0
    is_query: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Something that was left out; the fields are those of ``schemas/reject.json``."""

    scope: Literal["record", "media", "reference"]
    stage: Literal["scan", "import", "media", "choose"]
    reason: str
    source: str
    locator: str
    id: str
    detail: str


Item = Picture | RawTriplet | Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """One detected source: a unique ``name`` (``[a-z0-9_-]{1,80}``), its ``format``, and the files it is made of.

    ``files`` are the text and table files in a fixed order; ``why`` says in words what gave the format away.
    """

    name: str
    format: str
    files: tuple[str, ...]
    why: str

    def reject(self, reason: str, *, place: str, id: str = "", detail: str, scope: Literal["record", "media", "reference"] = "record") -> Reject:
        """A `Reject` of this source at the import stage."""
        return Reject(scope=scope, stage="import", reason=reason, source=self.name, locator=place, id=id, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFormat:
    """How one published format is found and read.

    ``claim(root, paths)`` returns the sources found among ``paths`` (files that no earlier format has claimed).
    ``read(spec, root)`` streams the items; it raises `SourceError` where a file is unreadable as a whole.
    """

    claim: Callable[[Root, Collection[str]], list[SourceSpec]]
    read: Callable[[SourceSpec, Root], Iterator[Item]]
