"""What a source format is: how its files are found, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    from mimicit.sources.files.root import Root
    from mimicit.sources.sniff import Head, HeadKind
from mimicit.sources.items import Entry, Item, Note, Piece, Reject

__all__ = [
    "A_MEDIUM",
    "PICTURES",
    "Claim",
    "Join",
    "Lookup",
    "Needs",
    "OptionValue",
    "SourceFormat",
    "SourceSpec",
]


OptionValue = float | tuple[str, ...]
"""What a user sets an option of a format to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """One detected source: a unique ``name`` (``[a-z0-9_-]{1,80}``), its ``format``, and the files it is made of.

    ``files`` are the text and table files in a fixed order (of a ``folder`` source: the sidecars and the media);
    ``why`` says in words what gave the format away. ``part`` is what the format calls this source, where it makes
    several of the same files. ``limit`` is the number of queries that the publisher would draw at most. ``options``
    are those of the format that the user has set (see `SourceFormat`). ``beside`` are files that only describe the
    others, such as the statistics of a download: they are not read, and not unused either; nor is what lies in the
    folder ``made_from`` (ends with ``/``), of which this source was written. With a ``piece``, only that is to be read.
    """

    name: str
    format: str
    files: tuple[str, ...]
    why: str
    part: str = ""
    limit: int | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    made_from: str = ""
    piece: Piece | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that are to be read."""
        return self.files if self.piece is None else self.piece.paths

    def reject(
        self,
        reason: str,
        *,
        place: str,
        id: str = "",
        detail: str,
        scope: Literal["record", "media", "reference", "source"] = "record",
    ) -> Reject:
        """A `Reject` of this source at the import stage."""
        return Reject(scope=scope, stage="import", reason=reason, source=self.name, locator=place, id=id, detail=detail)


class Claim(Protocol):
    """Finds the sources of one format among files that no earlier format has claimed.

    ``heads`` tells what every file is made of (see `sniff`), so that no format opens it again. The ``name`` of a
    returned spec is the path it should be called after, such as ``easy_vqa/train``; `detect` makes it a unique slug.
    ``force`` is true where the user has named the format: then every file that could be of it is taken.
    """

    def __call__(self, root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
        """The sources found, in an order that depends on the paths alone."""
        ...


A_MEDIUM: Final = "a picture or clip"

PICTURES: Final = "a column of pictures"
"""What a format that needs some picture names in `Needs`, whatever the suffix or the column is called."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a file of one of the ``kinds`` must hold to be of a format, for messages: of each of ``fields``, one name.

    The names are those of a `Head`, or `A_MEDIUM`, or `PICTURES`.
    """

    kinds: tuple[HeadKind, ...]
    fields: tuple[tuple[str, ...], ...]


class Lookup(Protocol):
    """The entries of a source by their keys."""

    def get(self, key: str) -> str | None:
        """The value of ``key``, or None."""
        ...

    def use_all(self, keys: Sequence[str]) -> dict[str, str]:
        """The values of those of the ``keys`` that are there, whose entries are then used (see `Join.unused`)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """How a source is read whose records need what stands elsewhere in it: ``entries`` first, then ``records``.

    Neither is held in memory. Both read what `SourceSpec.piece` says. ``repeated`` is what an entry is rejected as
    whose key came before, and ``unused`` one that nobody has used; None: that is nothing to mention.
    """

    entries: Callable[[SourceSpec, Root], Iterator[Entry | Reject | Note]]
    records: Callable[[SourceSpec, Root, Lookup], Iterator[Item]]
    repeated: Callable[[SourceSpec, Entry], Reject | None] | None = None
    unused: Callable[[SourceSpec, Entry], Reject] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFormat:
    """How one published format is found and read.

    ``read(spec, root)`` streams the items; it raises `SourceError` where a file is unreadable as a whole.
    ``split`` cuts a source into pieces whose items, one piece after the other, are those of the whole; None: it is read
    in one go. With a ``join``, ``read`` reads by that; the build itself does it where ``split`` tells pieces of entries
    from pieces of records, for then both are read side by side.

    With ``ids_repeat``, published ids name the picture and not the record: equal ids of different records are then told
    apart by a number (``x``, ``x~2``, ...), and only a record that says the same again is a duplicate. With
    ``by_record``, each file is a source by itself, and claimed for what its single records are.

    ``options`` is a dataclass of numbers and tuples of texts that a user may set, all with defaults; its constructor
    raises `UsageError` for one that is out of range. ``read`` makes it from ``spec.options``. ``needs`` says of a file
    that nobody claims how far it is from this format.
    """

    claim: Claim
    read: Callable[[SourceSpec, Root], Iterator[Item]]
    split: Callable[[SourceSpec, Root], list[Piece]] | None = None
    join: Join | None = None
    ids_repeat: bool = False
    by_record: bool = False
    options: type[Any] | None = None
    needs: tuple[Needs, ...] = ()
