"""From a query and its chosen context to a sample, one after another: what the build writes by columns."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mimicit.records import Media, Sample, Triplet

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One triplet of a sample before its media are numbered: ``media`` are keys into the media at hand."""

    id: str
    media: tuple[int, ...]
    instruction: str
    answer: str
    relation: str | None = None
    score: float | None = None


def shown_anew(media: Sequence[Sequence[Key]]) -> Iterator[Sequence[Key]]:
    """What each triplet of a sample shows right before its text, given the ``media`` that each is about, in order.

    It shows them unless exactly these were shown last: then text goes on about them (text attends to the picture right
    before it, so an earlier picture must be shown again).
    """
    last: Sequence[Key] = ()
    for about in media:
        yield about if about != last else ()
        last = about or last


def assemble(
    parts: Sequence[Part], media: Mapping[int, Media], *, id: str, source: str, meta: Mapping[str, Any]
) -> tuple[Sample, list[int]]:
    """The `Sample` of ``parts`` (context first, query last), and the key of each of its media in order.

    A part shows its media as `shown_anew` says. Files are numbered through the sample: ``000.jpg``, ``001.jpg``, ...
    """
    shown: list[int] = []
    triplets: list[Triplet] = []
    for place, (part, new) in enumerate(zip(parts, shown_anew([part.media for part in parts]), strict=True)):
        triplets.append(
            Triplet(
                id=part.id,
                role="query" if place == len(parts) - 1 else "context",
                media=tuple(range(len(shown), len(shown) + len(new))),
                instruction=part.instruction,
                answer=part.answer,
                relation=part.relation,
                score=part.score,
            )
        )
        shown.extend(new)
    numbered: list[Media] = []
    files = 0
    for key in shown:
        numbered.append(_renumbered(media[key], files))
        files += len(media[key].files)
    sample = Sample(id=id, source=source, media=tuple(numbered), triplets=tuple(triplets), meta=meta)
    return sample, shown


def _renumbered(media: Media, start: int) -> Media:
    extension = media.files[0].rpartition(".")[2]
    return Media(
        kind=media.kind,
        files=tuple(f"{start + place:03d}.{extension}" for place in range(len(media.files))),
        width=media.width,
        height=media.height,
        sha256=media.sha256,
        origin=media.origin,
        timestamps_s=media.timestamps_s,
        duration_s=media.duration_s,
    )
