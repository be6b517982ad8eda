"""How many passes a JPEG makes over its pixels, found without decoding one.

A progressive JPEG comes in scans, and each costs a pass over the whole picture, however few bytes it has: 3,000 of them
in a file of 270 kB take 90 s. Encoders write about ten.
"""

from __future__ import annotations

import re
from typing import Final

from mimicit.errors import RejectedError

__all__ = ["MAX_SCANS", "check_scans", "count_scans"]

MAX_SCANS: Final = 100
"""The most scans of a JPEG that is decoded; a hundred over 100 million pixels take some 10 s."""

_SCAN: Final = b"\xff\xda"
_END: Final = 0xD9
_WITHOUT_LENGTH: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_NEXT_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in a scan, FF 00 is a byte and FF D0 to D7 a restart


def check_scans(data: bytes) -> None:
    """`RejectedError` (``too_many_scans``) where the JPEG ``data`` has more than `MAX_SCANS`."""
    scans = count_scans(data)
    if scans > MAX_SCANS:
        raise RejectedError("too_many_scans", f"a JPEG of {scans:,} scans; the limit is {MAX_SCANS}")


def count_scans(data: bytes) -> int:
    """The scans of the first picture in the JPEG ``data``, or a few more than it has where they are few."""
    most = data.count(_SCAN)
    if most <= MAX_SCANS:  # more only by chance, in what follows the picture or in its metadata
        return most
    scans, place = 0, 2
    while (marker := _NEXT_MARKER.search(data, place)) is not None:
        kind, place = data[marker.start() + 1], marker.end()
        if kind == _END:
            break
        if kind in _WITHOUT_LENGTH:
            continue
        scans += kind == _SCAN[1]
        place += int.from_bytes(data[place : place + 2], "big")
    return scans
