"""Draw the queries of a source: a share of them, or at most so many. Records that are not drawn stay usable as context.

Each query has a lot, a hash of the seed and its id. A share takes the lots below it, a limit takes the smallest; so a
larger share or limit only adds queries, and a query's lot depends neither on other records nor on other sources.
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["LOTS", "lot"]

LOTS: Final = 1 << 63
"""How many lots there are, from 0 on."""


def lot(seed: int, id: str) -> int:
    """63 random bits that depend on the seed and the id alone."""
    digest = hashlib.blake2b(f"{seed}\0lot\0{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % LOTS
