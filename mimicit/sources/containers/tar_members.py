"""The members of a tar file, streamed: where the bytes of each lie, without reading them.

Headers are walked directly, with seeks over the bytes between them, because `tarfile` keeps every member in memory, and
reads a header of any size. Memory is bounded by one header. POSIX ustar, pax and GNU long names are understood, and the
old form without a magic. Places in a compressed archive are those in its unpacked copy (see `unpacked`). After the end
mark of an archive another archive may follow, as in the output of ``cat a.tar b.tar``.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.unpacked import open_start, open_unpacked
from mimicit.sources.files.root import Root
from mimicit.sources.records.text import is_unicode

MAX_MEMBERS: Final = 1_000_000
_MAX_NAME_BYTES: Final = 4096
_MAX_EXTENSION_BYTES: Final = 1 << 20  # of the pax records or the long name in front of a member
_BLOCK: Final = tarfile.BLOCKSIZE
_REGULAR: Final = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_MAX_PADDING: Final = 64 << 20  # zeros between two archives
_READ_BYTES: Final = 1 << 20
_PLAIN: Final = re.compile(rb"ustar(?:\x0000|  \x00)")
_OCTAL: Final = re.compile(rb"[0-7]+[ \0]+")
_CHECKSUM: Final = slice(148, 156)  # of the header; counts as spaces itself
_SPACES: Final = 8 * ord(" ")


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in a tar: its name, and its ``size`` bytes at ``offset``.

    ``archive`` is the number, from 0, of its archive in a file that holds several.
    """

    name: str
    offset: int
    size: int
    archive: int = 0


class _Header(NamedTuple):
    """What a header says of its member; ``name`` as it is in the archive."""

    name: bytes
    size: int
    type: bytes


@dataclass(slots=True)
class _Extension:
    """What extension headers say about the member that follows them."""

    name: bytes | None = None
    size: int | None = None
    fault: str = ""


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is an uncompressed tar."""
    try:
        return len(head) >= _BLOCK and _header(head[:_BLOCK]) is not None
    except tarfile.HeaderError:
        return False


def regular_size(header: bytes) -> int | None:
    """The size of the regular file with the 512 bytes ``header``; ``None`` if this is no header of one."""
    try:
        info = _header(header)
    except tarfile.HeaderError:
        return None
    return info.size if info is not None and info.type in _REGULAR and info.size >= 0 else None


def tar_members(root: Root, path: str, *, max_members: int = MAX_MEMBERS) -> Iterator[TarMember | RejectedError]:
    """The regular files of the tar at ``path`` in order; folders are skipped.

    A member that is refused is a `RejectedError` that names it: links, devices and sparse files are
    ``unsupported_media``, an absolute name or one with ``..`` is ``outside_root``, any other odd name ``malformed``.
    `SourceError` if the file is no tar, is cut or damaged, or has more than ``max_members`` members.
    """
    with open_tar(root, path) as file:
        yield from _members(file, path, max_members)


def open_tar(root: Root, path: str) -> BinaryIO:
    """The tar at ``path``, unpacked; `SourceError` if it cannot be opened."""
    try:
        return open_unpacked(root, path)
    except RejectedError as error:
        raise SourceError(f"{path}: cannot be opened: {error.detail}") from None


def first_members(root: Root, path: str) -> Iterator[TarMember | RejectedError]:
    """As `tar_members`; of a compressed archive, only those in its first 8 MiB, which are unpacked in memory."""
    with open_start(root, path) as file:
        yield from _members(file, path)


def _members(file: BinaryIO, path: str, max_members: int = MAX_MEMBERS) -> Iterator[TarMember | RejectedError]:
    size = file.seek(0, os.SEEK_END)
    position = count = archive = 0
    extension = _Extension()
    while True:
        info = _next_header(file, path, position, size)
        if info is None:
            following = _next_archive(file, position, size)
            if not isinstance(following, int):
                yield from following
                return
            position, archive, extension = following, archive + 1, _Extension()
            continue
        start = position + _BLOCK
        is_extension = info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
        if is_extension or info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            position = _end(path, info.name, start, info.size, size)
            _extend(extension, info.type, _payload(file, path, info, start))
            continue
        count += 1
        if count > max_members:
            raise SourceError(f"{path}: more than {max_members} members; split the archive")
        length = info.size if extension.size is None else extension.size
        has_payload = info.type in _REGULAR or info.type not in tarfile.SUPPORTED_TYPES
        position = _end(path, info.name, start, length, size) if has_payload else start
        if info.type != tarfile.DIRTYPE:
            yield _member(info, extension, start, length, archive)
        extension = _Extension()


def _header(block: bytes) -> _Header | None:
    """The header in ``block``, or None if it is the end mark; `tarfile.HeaderError` if it is neither."""
    if block == bytes(_BLOCK):
        return None
    return _plain_header(block) or _any_header(block)


def _plain_header(block: bytes) -> _Header | None:
    """The header of a regular file as most tars have it, which takes a sixth of the time of `tarfile`; else None."""
    size, checksum = block[124:136], block[_CHECKSUM]
    if (
        len(block) != _BLOCK
        or block[156:157] != tarfile.REGTYPE
        or not _PLAIN.match(block, 257)
        or not _OCTAL.fullmatch(size)
        or not _OCTAL.fullmatch(checksum)
        or sum(block) - sum(checksum) + _SPACES != int(checksum.rstrip(b"\0 "), 8)
    ):
        return None
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    return _Header(prefix + b"/" + name if prefix else name, int(size.rstrip(b"\0 "), 8), tarfile.REGTYPE)


def _any_header(block: bytes) -> _Header:
    info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    return _Header(info.name.encode("utf-8", "surrogateescape"), info.size, info.type)


def _next_header(file: BinaryIO, path: str, position: int, size: int) -> _Header | None:
    file.seek(position)
    try:
        info = _header(file.read(_BLOCK))
    except tarfile.HeaderError as error:
        if position == 0:
            raise SourceError(f"{path}: no tar file") from None
        what = "the archive is cut" if position + _BLOCK > size else f"no header ({error})"
        raise SourceError(f"{path}: {what} at byte {position}; fetch or pack it again") from None
    if info is not None and info.size < 0:
        raise SourceError(f"{path}: a member of {info.size} bytes at byte {position}; the archive is damaged")
    return info


def _next_archive(file: BinaryIO, position: int, size: int) -> int | list[RejectedError]:
    """Where the next archive begins after the end mark at ``position``; else the faults of what is there instead."""
    file.seek(position)
    at = position
    while block := file.read(_READ_BYTES):
        zeros = len(block) - len(block.lstrip(b"\0"))
        if zeros < len(block):
            at += zeros - zeros % _BLOCK
            file.seek(at)
            if is_tar(file.read(_BLOCK)):
                return at
            what = f"the {size - at} bytes from byte {at} on, after the end of the archive, are no tar"
            return [RejectedError("malformed", f"{what}; fetch or pack it again")]
        at += len(block)
        if at - position > _MAX_PADDING:
            return [
                RejectedError("malformed", f"nothing but zeros from byte {position} on; what may follow is not read")
            ]
    return []


def _end(path: str, name: bytes, start: int, length: int, size: int) -> int:
    """Where the header after a member lies; `SourceError` if the archive ends before that."""
    end = start + length + (-length % _BLOCK)
    if end > size:
        shown = name.decode("utf-8", "surrogateescape")[:200]
        raise SourceError(f"{path}: the archive ends inside member {shown!a}; fetch or pack it again")
    return end


def _payload(file: BinaryIO, path: str, info: _Header, start: int) -> bytes:
    if info.size > _MAX_EXTENSION_BYTES:
        raise SourceError(f"{path}: an extended header of {info.size} bytes at byte {start - _BLOCK}")
    file.seek(start)
    return file.read(info.size)


def _extend(extension: _Extension, kind: bytes, payload: bytes) -> None:
    if kind == tarfile.GNUTYPE_LONGNAME:
        extension.name = payload.rstrip(b"\0")
    elif kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
        try:
            _extend_by_pax(extension, payload)
        except ValueError:
            extension.fault = "its pax header is damaged"
    # A global header can only say what no reader of pictures asks for, such as a comment; GNU long links name targets.


def _extend_by_pax(extension: _Extension, records: bytes) -> None:
    """Read name and size from ``b"<length> <key>=<value>\\n"`` records; ValueError if they have another form."""
    while records:
        length = int(records[: records.index(b" ")])
        key, equals, value = records[:length].partition(b" ")[2].partition(b"=")
        if length > len(records) or length < 1 or not equals or not value.endswith(b"\n"):
            raise ValueError
        if key == b"path":
            extension.name = value[:-1]
        elif key == b"size":
            extension.size = int(value)
            if extension.size < 0:
                raise ValueError
        elif key.startswith(b"GNU.sparse"):
            extension.fault = "it is a sparse file"
        records = records[length:]


def _member(info: _Header, extension: _Extension, start: int, length: int, archive: int) -> TarMember | RejectedError:
    raw = info.name if extension.name is None else extension.name
    name = raw.decode("utf-8", "surrogateescape")
    if len(raw) > _MAX_NAME_BYTES or not name or "\0" in name or not is_unicode(name):
        return RejectedError("malformed", f"member {name[:80]!a} has a name that no file can have")
    if name.startswith("/") or ".." in name.split("/"):
        return RejectedError("outside_root", f"member {name!r} would lie outside the archive's folder")
    if info.type not in _REGULAR:
        return RejectedError("unsupported_media", f"member {name!r} is a link or a device, not a regular file")
    if extension.fault:
        return RejectedError("unsupported_media", f"member {name!r} cannot be read: {extension.fault}")
    return TarMember(name.removeprefix("./"), start, length, archive)
