"""Which media a triplet is about, told from the samples that show it.

A sample does not show a picture again right after it was shown, so a triplet with no media of its own either goes on
about the last ones or is text alone. One sample often cannot tell; what all samples say together is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from mimicit.errors import CorruptShardError
from mimicit.records import Sample

__all__ = ["About", "agree", "media_of_triplets"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class About(Generic[T]):
    """What a triplet shows. Where it is not ``certain``, it shows ``media`` or nothing at all."""

    media: tuple[T, ...]
    certain: bool


def media_of_triplets(sample: Sample) -> Iterator[About[int]]:
    """What ``sample`` tells of each of its triplets, in order; media are its indices.

    How the context was chosen tells more: a random one never shows what the query is about, and one chosen for the
    same media always does.
    """
    last: tuple[int, ...] = ()
    shown_by: str | None = None
    for triplet in sample.triplets:
        if triplet.media:
            last, shown_by = triplet.media, triplet.relation
            yield About(last, certain=True)
        elif not last or (triplet.role == "query" and shown_by == "random"):
            yield About((), certain=True)
        else:
            same = triplet.relation == "same_media" or (triplet.role == "query" and shown_by == "same_media")
            yield About(last, certain=same)


def agree(before: About[T], now: About[T]) -> About[T]:
    """What two samples together tell of one triplet; `CorruptShardError` where they contradict each other.

    Where no sample was ever certain, the triplet goes on about the last media: that builds the same samples again.
    """
    if not before.certain and not now.certain:
        return before if before.media == now.media else About((), certain=True)
    if before.certain and now.certain:
        if before.media and now.media and before.media != now.media:
            raise CorruptShardError("shows other media in another sample; are the shards of one build?")
        return before if before.media else now
    return before if before.certain else now
