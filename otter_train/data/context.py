"""Changing the context of a `Sample`: fewer triplets, or another order; the query always stays, and stays last.

A triplet that shows nothing is about the medium shown last before it. So a picture and the turns about it form a
block, which is moved and kept as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mimicit.records import Sample, Triplet

__all__ = ["drop_context", "shuffle_context"]

_ORDERED: Final = ("conversation", "document")
"""Relations whose triplets mean something in their own order only."""


def drop_context(sample: Sample, count: int) -> Sample:
    """``sample`` without its ``count`` farthest context triplets and the media that only they need.

    Where the first triplet that stays shows nothing itself, it is about the media shown last before it; so these
    move to it.
    """
    kept = sample.triplets[count:]
    if not kept[0].media:
        shown = [triplet.media for triplet in sample.triplets[:count] if triplet.media]
        kept = (replace(kept[0], media=shown[-1] if shown else ()), *kept[1:])
    return _with_triplets(sample, kept)


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
    return _with_triplets(sample, [triplet for block in moved for triplet in block])


def _with_triplets(sample: Sample, triplets: Sequence[Triplet]) -> Sample:
    """``sample`` with ``triplets``, which name its media by their present indices; the media follow their order."""
    order = [index for triplet in triplets for index in triplet.media]
    place = {index: place for place, index in enumerate(order)}
    return replace(
        sample,
        media=tuple(sample.media[index] for index in order),
        triplets=tuple(replace(triplet, media=tuple(place[index] for index in triplet.media)) for triplet in triplets),
    )


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
