"""The bytes of a shard: plain POSIX ustar members with fixed metadata, and one sample as a run of members.

Headers are written directly: `tarfile` takes longer for a header than the disk for the picture. A test compares every
header with ``tarfile.TarInfo.tobuf``. All metadata are constant (mtime 0, owner 0, mode 0644), so the bytes depend on
names and contents alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from mimicit.errors import CorruptShardError, ShardError

BLOCK: Final = 512
END_OF_ARCHIVE: Final = bytes(2 * BLOCK)
_MAX_NAME_BYTES: Final = 100
_MAX_MEMBER_BYTES: Final = 8**11 - 1  # eleven octal digits

# name | mode, uid, gid | size | mtime | checksum as spaces | type | link | magic, version, owner names, devices, prefix
_AFTER_NAME: Final = b"0000644\0" + b"0000000\0" * 2
_AFTER_SIZE: Final = b"0" * 11 + b"\0"
_REGULAR: Final = b"0"
_HARD_LINK: Final = b"1"
_AFTER_LINK: Final = b"ustar\x0000" + bytes(247)
_AFTER_CHECKSUM: Final = _REGULAR + bytes(_MAX_NAME_BYTES) + _AFTER_LINK
_PADDINGS: Final = [bytes(-size % BLOCK) for size in range(BLOCK)]
_CONSTANT_SUM: Final = sum(_AFTER_NAME) + sum(_AFTER_SIZE) + 8 * ord(" ") + sum(_AFTER_LINK)


def member_header(name: str, size: int, target: str = "") -> bytes:
    """The 512-byte ustar header of a regular file, or of a hard link to the member ``target``.

    `ShardError` if ustar cannot hold a name or the size.
    """
    raw, link = name.encode("ascii", "replace"), target.encode("ascii", "replace")
    if max(len(raw), len(link)) > _MAX_NAME_BYTES or not (name.isascii() and target.isascii()):
        raise ShardError(f"{name!r}: member names are at most {_MAX_NAME_BYTES} ASCII characters")
    if size > _MAX_MEMBER_BYTES:
        raise ShardError(f"{name!r}: {size} bytes are more than a ustar member can hold; lower --size or --frames")
    octal = b"%011o\0" % size
    kind = _HARD_LINK if target else _REGULAR
    checksum = sum(raw) + sum(octal) + sum(kind) + sum(link) + _CONSTANT_SUM
    return b"".join(
        (
            raw.ljust(_MAX_NAME_BYTES, b"\0"),
            _AFTER_NAME,
            octal,
            _AFTER_SIZE,
            _checksum(checksum),
            kind,
            link.ljust(_MAX_NAME_BYTES, b"\0"),
            _AFTER_LINK,
        )
    )


class Header(NamedTuple):
    """A parsed header: a file of ``size`` bytes, or a hard link to the member ``target`` (empty for a file)."""

    name: str
    size: int
    target: str


def parse_header(block: bytes) -> Header:
    """The inverse of `member_header`; also parses ustar headers that other programs wrote.

    `CorruptShardError` if ``block`` is not a ustar header, or not that of a file or a hard link.
    """
    if block[257:262] != b"ustar":
        raise CorruptShardError("is no ustar header")
    claimed = _octal(block[148:156])
    if claimed != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise CorruptShardError("is a header of another checksum than it says")
    name, target = (_text(block[at : at + _MAX_NAME_BYTES]) for at in (0, 157))
    kind = block[156:157]
    if kind not in (_REGULAR, _HARD_LINK, b"\0"):
        raise CorruptShardError(f"member {name!r} is not a regular file")
    if block[345]:  # the prefix of long paths
        raise CorruptShardError(f"member {name!r} lies in a folder")
    size = _octal(block[124:136])
    if kind == _HARD_LINK:
        if size:
            raise CorruptShardError(f"member {name!r} is a hard link, but has a size")  # readers skip it, or do not
        return Header(name, 0, target)
    return Header(name, size, "")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("ascii", "backslashreplace")


def _octal(field: bytes) -> int:
    digits = field.strip(b"\0 ") or b"0"
    if not digits.isdigit() or max(digits) > ord("7"):  # int() takes signs and underscores, too
        raise CorruptShardError("is a header with a number that is none")
    return int(digits, 8)


def member_span(size: int) -> int:
    """Bytes that a member with a payload of ``size`` bytes takes in the archive: header, payload, padding."""
    return BLOCK + size + (-size % BLOCK)


class Members:
    """Members of a tar one after the other: their bytes, and where the payload of each lies in the tar."""

    def __init__(self) -> None:
        self.position = 0
        """Where the next header goes, in bytes from the start of the tar."""
        self._chunks: list[bytes | memoryview] = []
        self._taken = 0
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._key = b""
        self._key_sum = 0

    @property
    def waiting(self) -> int:
        """How many bytes `taken` has not returned yet."""
        return self.position - self._taken

    def add(self, key: bytes, suffix: bytes, payload: bytes | memoryview) -> None:
        """Add a file named ``key + suffix``, by the key of its sample; errors as `member_header`."""
        size = len(payload)
        if key is not self._key:
            self._key, self._key_sum = key, sum(key)
        name = key + suffix
        if len(name) > _MAX_NAME_BYTES or size > _MAX_MEMBER_BYTES:
            member_header(name.decode(), size)  # raises the error that says why
        frame, frame_sum = _frame(suffix, size)
        header = (name.ljust(_MAX_NAME_BYTES, b"\0"), frame, _checksum(self._key_sum + frame_sum), _AFTER_CHECKSUM)
        padding = _PADDINGS[size % BLOCK]
        self._chunks += (*header, payload, padding)
        self._offsets.append(self.position + BLOCK)
        self._sizes.append(size)
        self.position += BLOCK + size + len(padding)

    def link(self, name: str, target: str, offset: int, size: int) -> None:
        """Add a hard link: the same bytes as the earlier member ``target``, whose ``size`` bytes lie at ``offset``."""
        self._chunks.append(member_header(name, 0, target))
        self._offsets.append(offset)
        self._sizes.append(size)
        self.position += BLOCK

    def end(self) -> None:
        """Add the mark of the end of the tar."""
        self._chunks.append(END_OF_ARCHIVE)
        self.position += len(END_OF_ARCHIVE)

    def taken(self) -> bytes:
        """The bytes that were added since the last call."""
        data = b"".join(self._chunks)
        self._chunks, self._taken = [], self.position
        return data

    def places(self) -> tuple[list[int], list[int]]:
        """The offsets (bytes from the start of the tar) and sizes of the payloads added since the last call."""
        found = self._offsets, self._sizes
        self._offsets, self._sizes = [], []
        return found


@lru_cache(1 << 14)
def _frame(suffix: bytes, size: int) -> tuple[bytes, int]:
    """The header of a file between its name and its checksum, and the sum of all of its bytes except the key's."""
    octal = b"%011o\0" % size
    return b"".join((_AFTER_NAME, octal, _AFTER_SIZE)), _CONSTANT_SUM + sum(octal) + sum(_REGULAR) + sum(suffix)


@lru_cache(1 << 14)
def _checksum(checksum: int) -> bytes:
    return b"%06o\0 " % checksum
