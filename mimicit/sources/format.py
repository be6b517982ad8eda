"""What a source format is: how its files are found, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    from mimicit.sources.files.root import Root
    from mimicit.sources.sniff import Head, HeadKind
from mimicit.sources.items import Entry, Item, Note, Piece, Reject

OptionValue = float | tuple[str, ...]
"""What a user sets an option of a format to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """One detected source: a unique ``name`` (``[a-z0-9_-]{1,80}``), its ``format``, and the files it is made of.

    ``files`` are the text and table files in a fixed order (of a ``folder`` source: the sidecars and the media);
    ``why`` says in words how the format was recognised. ``part`` is the format's name for this source, if it makes
    several of the same files. ``limit`` is the largest number of queries that the publisher would draw. ``options``
    are the options of the format that the user has set (see `SourceFormat`). ``beside`` are files that only describe
    the others, such as the statistics of a download: they are neither read nor reported as unused; nor is what lies in
    the folder ``made_from`` (ends with ``/``), from which this source was written. ``media_roots`` are those of this
    source alone (see `Root`). With a ``piece``, read only that.
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
    media_roots: Mapping[str, str] = field(default_factory=dict)
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

    ``heads`` says what every file is made of (see `sniff`), so that no format opens it again. The ``name`` of a
    returned spec is the path it should be named after, such as ``easy_vqa/train``; `detect` makes it a unique slug.
    ``force`` is true if the user has named the format: then every file that could be of that format is taken.
    """

    def __call__(self, root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
        """The sources found, in an order that depends on the paths alone."""
        ...


A_MEDIUM: Final = "a picture or clip"

PICTURES: Final = "a column of pictures"
"""Stand for any picture in `Needs`, whatever the suffix or the column is called."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a file of one of the ``kinds`` needs to be of a format, for messages: one name from each of ``fields``.

    The names are those of a `Head`, or `A_MEDIUM`, or `PICTURES`.
    """

    kinds: tuple[HeadKind, ...]
    fields: tuple[tuple[str, ...], ...]


EntryPlace = tuple[int, int]
"""Where an entry lies; places ascend in the order in which a source is read."""


class Lookup(Protocol):
    """The entries of a source by their keys."""

    def get(self, key: str) -> str | None:
        """The value of ``key``, or None."""
        ...

    def use_all(self, keys: Sequence[str]) -> dict[str, str]:
        """The values of the ``keys`` that exist; their entries count as used from then on (see `Join.unused`)."""
        ...

    def own(self) -> Iterator[tuple[EntryPlace, Entry]]:
        """The entries that were read from the very piece whose records are made, in their order."""
        ...

    def first(self, key: str) -> EntryPlace | None:
        """Where the first entry with ``key`` lies, if there is any."""
        ...

    def all(self, key: str) -> Iterator[EntryPlace]:
        """Where the entries with ``key`` lie, in their order."""
        ...

    def value(self, place: EntryPlace) -> str:
        """The value of an entry."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """How to read a source whose records look up entries elsewhere in it: ``entries`` first, then ``records``.

    Neither is held in memory. Both read only `SourceSpec.piece`, if there is one. ``repeated`` makes the reject of an
    entry whose key came before, ``unused`` that of an entry that no record has used; None: there is no reject.
    """

    entries: Callable[[SourceSpec, Root], Iterator[Entry | Reject | Note]]
    records: Callable[[SourceSpec, Root, Lookup], Iterator[Item]]
    repeated: Callable[[SourceSpec, Entry], Reject | None] | None = None
    unused: Callable[[SourceSpec, Entry], Reject] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFormat:
    """How one published format is found and read.

    ``read(spec, root)`` streams the items; it raises `SourceError` if a file is unreadable as a whole.
    ``split`` cuts a source into pieces whose items, one piece after the other, are those of the whole; None: it is read
    in one go. With a ``join``, ``read`` follows it; if ``split`` tells pieces of entries from pieces of records, the
    build follows it instead, and reads several pieces of either kind side by side.

    With ``ids_repeat``, published ids name the picture and not the record: equal ids of different records are then told
    apart by a number (``x``, ``x~2``, ...), and only a record that says the same again is a duplicate. With
    ``by_record``, each file is a source by itself, claimed because of what its single records hold. Only with
    ``of_media``, ``claim`` is also given the pictures and clips, which may be millions.

    ``options`` is a dataclass of numbers and tuples of texts that a user may set, each declared as a
    `mimicit.options.option`. ``read`` makes it from ``spec.options``. ``needs`` serves to say how
    far a file that no format claims is from this one.
    """

    claim: Claim
    read: Callable[[SourceSpec, Root], Iterator[Item]]
    split: Callable[[SourceSpec, Root], list[Piece]] | None = None
    join: Join | None = None
    ids_repeat: bool = False
    by_record: bool = False
    of_media: bool = False
    options: type[Any] | None = None
    needs: tuple[Needs, ...] = ()
