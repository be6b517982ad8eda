"""Changing the context of a `Sample`: fewer triplets, or another order; the query always stays, and stays last.

A triplet that shows nothing is about the medium shown last before it. So a picture and the turns about it form a
block, which is moved and kept as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from mimicit.prompt import drop_context, with_triplets
from mimicit.records import Sample, Triplet

__all__ = ["drop_context", "shuffle_context"]

_ORDERED: Final = ("conversation", "document")
"""Relations whose triplets mean something in their own order only."""


def shuffle_context(sample: Sample, seed: int) -> Sample:
    """``sample`` with its context in another order, the same one for the same ``seed``, source and id.

    Blocks trade places with each other. The turns of a conversation, documents, text before any picture, and the
    block of the query stay where they are.
    """
    blocks = _blocks(sample.triplets)
    free = [place for place, block in enumerate(blocks[:-1]) if _may_move(block)]
    drawn = sorted(free, key=lambda place: _draw(sample, seed, place))
    moved = list(blocks)
    for place, origin in zip(free, drawn, strict=True):
        moved[place] = blocks[origin]
    return with_triplets(sample, [triplet for block in moved for triplet in block])


def _blocks(triplets: Sequence[Triplet]) -> list[list[Triplet]]:
    blocks: list[list[Triplet]] = []
    for triplet in triplets:
        if triplet.media or not blocks:
            blocks.append([])
        blocks[-1].append(triplet)
    return blocks


def _may_move(block: Sequence[Triplet]) -> bool:
    return bool(block[0].media) and not any(triplet.relation in _ORDERED for triplet in block)


def _draw(sample: Sample, seed: int, place: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{sample.source}\0{sample.id}\0{place}".encode(), digest_size=16).digest()
