"""Fewer context triplets: what a prompt that is too long loses, the farthest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mimicit.records import Sample, Triplet

__all__ = ["drop_context", "with_triplets"]


def drop_context(sample: Sample, count: int) -> Sample:
    """``sample`` without its ``count`` farthest context triplets and the media that only they need.

    Where the first triplet that stays shows nothing itself, it is about the media shown last before it; so these
    move to it.
    """
    kept = sample.triplets[count:]
    if not kept[0].media:
        shown = [triplet.media for triplet in sample.triplets[:count] if triplet.media]
        kept = (replace(kept[0], media=shown[-1] if shown else ()), *kept[1:])
    return with_triplets(sample, kept)


def with_triplets(sample: Sample, triplets: Sequence[Triplet]) -> Sample:
    """``sample`` with ``triplets``, which name its media by their present indices; the media follow their order."""
    order = [index for triplet in triplets for index in triplet.media]
    place = {index: place for place, index in enumerate(order)}
    return replace(
        sample,
        media=tuple(sample.media[index] for index in order),
        triplets=tuple(replace(triplet, media=tuple(place[index] for index in triplet.media)) for triplet in triplets),
    )
