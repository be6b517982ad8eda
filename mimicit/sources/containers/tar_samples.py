"""The samples of a tar: members whose names are the same up to a dot, as in WebDataset.

The members of a sample are those with the same name up to the first dot: ``a.jpg``, ``a.seg.png`` and ``a.txt``. If
names hold dots of their own (``22.05.png`` and ``22.05.txt``, ``22.10.png`` and ``22.10.txt``), that would merge
different samples: then the members are those with the same name up to the last dot. Samples never extend across
concatenated archives.

An archive of many members is walked twice. If the members of a sample are not adjacent, the names of the archive are
sorted on disk; memory holds a number for each sample of one archive.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import BinaryIO, Final

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.tar_members import TarMember, first_members, tar_members
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.root import Root

_MAX_FILES: Final = 10_000
_FEW: Final = 1 << 15  # members of an archive that are kept, so that it is walked once
_MEMBERS_OF_FIRST: Final = 3  # of a sample, for a first look
_TEXTS: Final = frozenset({"caption", "cls", "json", "text", "txt"})


@dataclass(frozen=True, slots=True)
class TarSample:
    """One sample: ``key`` is the common name with its folder, and ``files`` are (suffix in lower case, place).

    The files are in the order of the archive. ``fault`` says why this is no sample though it has the files of one.
    ``is_first`` is false if samples before it in the file may have its key.
    """

    key: str
    files: tuple[tuple[str, TarMember], ...]
    fault: str = ""
    is_first: bool = True

    def file(self, suffix: str) -> TarMember | None:
        """The only file with this suffix, else the only one whose suffix ends in it after a dot, if there is one.

        `RejectedError` if there are several.
        """
        exact = [member for name, member in self.files if name == suffix]
        ending = [member for name, member in self.files if name.endswith(f".{suffix}")]
        if len(exact) > 1 or (len(ending) > 1 and not exact):
            names = ", ".join(repr(member.name) for member in (exact or ending)[:3])
            raise RejectedError("duplicate_id", f"{names}: which of them belongs to the sample {self.key!r}?")
        return next(iter(exact or ending), None)

    def place(self, path: str) -> str:
        """Where the sample stands in the tar at ``path``; no other sample stands there."""
        return f"{path}#{self.key}" + ("" if self.is_first else f" at byte {self.files[0][1].offset}")


@dataclass(frozen=True, slots=True)
class _Group:
    """The members of one archive with the same name up to the first dot, which is ``key``."""

    key: str
    members: list[TarMember]


def tar_samples(root: Root, path: str) -> Iterator[TarSample | RejectedError]:
    """The samples of the tar at ``path`` by the place of their first files, and the members that are refused.

    Hidden files and those named ``__...__`` are skipped. Of a sample with more than 10,000 files, the rest is refused.
    If a name comes twice, there are several samples, which have a fault unless each of them is whole: has a picture or
    clip, and another file with a text. `SourceError` as `tar_members`.
    """
    members = _members(root, path)
    yield from _samples(_neighbours(members()) if _stand_together(members()) else _sorted(members()))


def first_samples(root: Root, path: str, most: int) -> Iterator[TarSample]:
    """Samples among the first members of the tar at ``path``, about ``most`` of them, without its faults.

    First come the samples of adjacent members; a caller that reads on gets them again with all their members.
    """
    seen: dict[tuple[int, str], list[TarMember]] = {}

    def noted() -> Iterator[TarMember | RejectedError]:
        for member in islice(first_members(root, path), _MEMBERS_OF_FIRST * most):
            if isinstance(member, TarMember) and (key := _key(member)) is not None:
                seen.setdefault(key, []).append(member)
            yield member

    with suppress(SourceError):
        for sample in _samples(_neighbours(noted())):
            if isinstance(sample, TarSample):
                yield sample
    groups = (_Group(name, members) for (_, name), members in seen.items())
    yield from (sample for sample in _samples(groups) if isinstance(sample, TarSample))


def read_member(tar: BinaryIO, member: TarMember, *, most: int) -> bytes:
    """The bytes of ``member`` of an open ``tar``.

    `RejectedError` ``too_long`` for more than ``most``, and ``malformed`` if the archive ends before.
    """
    if member.size > most:
        raise RejectedError("too_long", f"{member.name!r} has {member.size} bytes, more than {most}")
    if member.offset + member.size > os.fstat(tar.fileno()).st_size:
        raise RejectedError("malformed", f"{member.name!r} lies beyond the end of the archive")
    return os.pread(tar.fileno(), member.size, member.offset)


def _members(root: Root, path: str) -> Callable[[], Iterator[TarMember | RejectedError]]:
    """A function for the members of the tar at ``path``, which are read once if they are few."""
    few: list[TarMember | RejectedError] = []
    fault: SourceError | None = None
    try:
        for member in tar_members(root, path):
            if len(few) == _FEW:
                return partial(tar_members, root, path)
            few.append(member)
    except SourceError as error:
        fault = error

    def again() -> Iterator[TarMember | RejectedError]:
        yield from few
        if fault is not None:
            raise fault

    return again


def _key(member: TarMember) -> tuple[int, str] | None:
    """The archive of ``member`` and its name up to the first dot; None if it is skipped."""
    folder, slash, name = member.name.rpartition("/")
    stem = name.partition(".")[0]
    if not stem or (stem.startswith("__") and stem.endswith("__")):
        return None
    return member.archive, f"{folder}{slash}{stem}"


def _stand_together(members: Iterable[TarMember | RejectedError]) -> bool:
    """Whether the members of each sample are adjacent, by their names up to the first dot."""
    seen: set[int] = set()
    before: tuple[int, str] | None = None
    with suppress(SourceError):  # reading the members raises it again
        for member in members:
            key = None if isinstance(member, RejectedError) else _key(member)
            if key is not None and key != before:
                if hash(key) in seen:  # takes less than the text; a collision does no harm
                    return False
                seen.add(hash(key))
                before = key
    return True


def _neighbours(members: Iterable[TarMember | RejectedError]) -> Iterator[_Group | RejectedError]:
    key: tuple[int, str] | None = None
    group: list[TarMember] = []
    try:
        for member in members:
            if isinstance(member, RejectedError):
                yield member
                continue
            own = _key(member)
            if own is None:
                continue
            if own != key:
                if key is not None:
                    yield _Group(key[1], group)
                key, group = own, []
            if len(group) < _MAX_FILES:
                group.append(member)
            else:
                yield _too_many(member)
    except SourceError:
        if key is not None:  # for a first look, what was there before the fault is telling
            yield _Group(key[1], group)
        raise
    if key is not None:
        yield _Group(key[1], group)


def _sorted(members: Iterable[TarMember | RejectedError]) -> Iterator[_Group | RejectedError]:
    """As `_neighbours`, but each member is grouped with the first of its name, wherever it is in the archive."""
    with (
        tempfile.TemporaryDirectory(prefix="mimicit-") as folder,
        closing(sqlite3.connect(Path(folder) / "members.sqlite", isolation_level=None)) as db,
    ):
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute(
            "CREATE TABLE member(number INTEGER PRIMARY KEY,"
            " archive INTEGER, key TEXT, name TEXT, offset INTEGER, size INTEGER)"
        )
        db.execute("BEGIN")
        for member in members:
            if isinstance(member, RejectedError):
                yield member
            elif (key := _key(member)) is not None:
                row = (*key, member.name, member.offset, member.size)
                db.execute("INSERT INTO member(archive, key, name, offset, size) VALUES (?, ?, ?, ?, ?)", row)
        rows = db.execute(
            "SELECT first, key, name, offset, size, archive FROM member JOIN"
            " (SELECT archive, key, min(number) AS first FROM member GROUP BY archive, key) USING (archive, key)"
            " ORDER BY first, number"
        )
        for (_, key_), found in groupby(rows, key=lambda row: (row[0], row[1])):
            group = [TarMember(*row[2:]) for row in found]
            yield _Group(key_, group[:_MAX_FILES])
            yield from map(_too_many, group[_MAX_FILES:])


def _too_many(member: TarMember) -> RejectedError:
    return RejectedError("malformed", f"member {member.name!r}: its sample has more than {_MAX_FILES} files")


def _samples(groups: Iterable[_Group | RejectedError]) -> Iterator[TarSample | RejectedError]:
    for group in groups:
        if isinstance(group, RejectedError):
            yield group
            continue
        for part in _by_last_dot(group):
            rounds = _rounds(part.members)
            fault = ""
            if len(rounds) > 1 and not all(_is_whole(members, of=part.members) for members in rounds):
                fault = f"names of {part.key!r} come twice, and it is not clear which files belong together"
            for number, members in enumerate(rounds):
                files = tuple((member.name[len(part.key) + 1 :].lower(), member) for member in members)
                yield TarSample(part.key, files, fault, is_first=number == 0 and members[0].archive == 0)


def _by_last_dot(group: _Group) -> list[_Group]:
    """``group``, or its parts by the last dot if a part whose key has a dot is whole by itself.

    A text without a picture of its own name (``a.txt`` next to ``a.left.jpg`` and ``a.left.json``) is about the whole
    group, which then is not cut.
    """
    parts: dict[str, list[TarMember]] = {}
    for member in group.members:
        parts.setdefault(max(member.name.rpartition(".")[0], group.key, key=len), []).append(member)
    own = parts.get(group.key, [])
    is_about_all = any(map(_is_text, own)) and not any(map(_is_medium, own))
    if is_about_all or not any(_is_whole(part) for key, part in parts.items() if key != group.key):
        return [group]
    return [_Group(key, part) for key, part in parts.items()]


def _rounds(members: list[TarMember]) -> list[list[TarMember]]:
    """``members`` in order, cut wherever a name comes again."""
    rounds: list[list[TarMember]] = [[]]
    names: set[str] = set()
    for member in members:
        if member.name in names:
            rounds.append([])
            names.clear()
        names.add(member.name)
        rounds[-1].append(member)
    return rounds


def _is_whole(members: list[TarMember], *, of: list[TarMember] | None = None) -> bool:
    """Whether ``members`` have a medium and a text; if none of the members ``of`` is a medium, a text is enough."""
    shows = any(map(_is_medium, members)) or (of is not None and not any(map(_is_medium, of)))
    return shows and any(map(_is_text, members))


def _is_medium(member: TarMember) -> bool:
    return named_kind(member.name) is not None


def _is_text(member: TarMember) -> bool:
    return member.name.rpartition(".")[2].lower() in _TEXTS
