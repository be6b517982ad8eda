"""Which media a triplet is about, inferred from the samples that show it.

A sample does not show a picture again right after it was shown, so a triplet with no media of its own is either about
the last ones or text alone. One sample often cannot decide this, so what all samples say is combined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from mimicit.errors import CorruptShardError
from mimicit.records import Sample

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class About(Generic[T]):
    """What a triplet shows. If it is not ``certain``, it shows ``media`` or nothing at all."""

    media: tuple[T, ...]
    certain: bool


def media_of_triplets(sample: Sample) -> Iterator[About[int]]:
    """What ``sample`` says about each of its triplets, in order; media are indices into those of the sample.

    How the context was chosen says more: a random context never shows what the query is about, and a context chosen
    for the same media always does.
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
    """What two samples together say about one triplet; `CorruptShardError` if they contradict each other.

    If no sample is ever certain, the triplet is taken to be about the last media: that builds the same samples again.
    """
    if not before.certain and not now.certain:
        return before if before.media == now.media else About((), certain=True)
    if before.certain and now.certain:
        if before.media and now.media and before.media != now.media:
            raise CorruptShardError("shows other media in another sample; are the shards of one build?")
        return before if before.media else now
    return before if before.certain else now
