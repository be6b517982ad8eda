"""Find pictures that look like an earlier one: multi-index hashing of their fingerprints, on disk.

A fingerprint of 64 bits is cut into 4 bands of 16. If two fingerprints differ in at most *d* bits, at least one of
their bands differs in at most *d* / 4. So it is enough to look up each band and the values near it (4 look-ups for *d*
up to 3, 68 up to 7 and 548 up to 11), and to count the differing bits of what is found there.
"""

from __future__ import annotations

import sqlite3
import struct
from itertools import combinations
from typing import Final

from mimicit.media.image import distance

_BANDS: Final = struct.Struct(">4H")
_BANDS_PER_FINGERPRINT: Final = 4
_BAND_BITS: Final = 16
_TABLE: Final = """
CREATE TABLE look(
    band INTEGER NOT NULL, bits INTEGER NOT NULL, medium INTEGER NOT NULL, fingerprint BLOB NOT NULL,
    PRIMARY KEY(band, bits, medium)
) WITHOUT ROWID
"""


class LookAlikes:
    """The pictures that were kept so far, in a private file; ``most`` is the largest distance in bits."""

    def __init__(self, most: int) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # closing the connection removes the file
        self._most = most
        flips = range(most // _BANDS_PER_FINGERPRINT + 1)
        self._masks = [sum(1 << bit for bit in bits) for n in flips for bits in combinations(range(_BAND_BITS), n)]
        self._db.execute(_TABLE)
        self._db.execute("BEGIN")

    def add(self, medium: int, fingerprint: bytes) -> None:
        """Keep a picture; keeping it again changes nothing."""
        self._db.executemany(
            "INSERT OR IGNORE INTO look VALUES (?, ?, ?, ?)",
            [(band, bits, medium, fingerprint) for band, bits in enumerate(_BANDS.unpack(fingerprint))],
        )

    def find(self, medium: int, fingerprint: bytes) -> int | None:
        """The kept picture with the smallest number that looks like this one.

        ``None`` if there is none, or if ``medium`` itself is kept.
        """
        wanted = int.from_bytes(fingerprint, "big")
        found: int | None = None
        for band, bits in enumerate(_BANDS.unpack(fingerprint)):
            for mask in self._masks:
                rows = self._db.execute(
                    "SELECT medium, fingerprint FROM look WHERE band = ? AND bits = ?", (band, bits ^ mask)
                )
                for other, kept in rows:
                    if other == medium:
                        return None
                    if (found is None or other < found) and distance(wanted, int.from_bytes(kept, "big")) <= self._most:
                        found = other
        return found
