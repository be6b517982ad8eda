"""Hypothesis strategies for the nouns of the format."""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mimicit.prompt import SPECIAL_TOKENS
from mimicit.records import Media, Sample, Triplet
from mimicit.shards.index import RELATIONS

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(
    lambda text: not any(token in text for token in SPECIAL_TOKENS)
)
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
few = settings(
    max_examples=settings().max_examples // 4,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""For tests each example of which takes a whole build: a quarter of the usual number of examples."""


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """A sound sample with media bytes (not decodable pictures), context and meta."""
    triplets: list[Triplet] = []
    media: list[Media] = []
    files = 0
    count = draw(st.integers(1, 4))
    for number in range(count):
        shown = []
        for _ in range(draw(st.integers(0, 2))):
            shown.append(len(media))
            media.append(draw(_media(files)))
            files += len(media[-1].files)
        is_query = number == count - 1
        triplets.append(
            Triplet(
                id=draw(IDS),
                role="query" if is_query else "context",
                media=tuple(shown),
                instruction=draw(TEXT),
                answer=draw(TEXT.filter(bool)),
                relation=None if is_query else draw(st.sampled_from(RELATIONS)),
                score=draw(st.none() | st.floats(-1, 1)),
            )
        )
    meta: dict[str, Any] = draw(st.dictionaries(TEXT, st.none() | st.integers(-(2**53), 2**53) | TEXT, max_size=3))
    source = draw(st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True))
    return Sample(id=draw(IDS), source=source, media=tuple(media), triplets=tuple(triplets), meta=meta)


@st.composite
def _media(draw: st.DrawFn, first_file: int) -> Media:
    is_video = draw(st.booleans())
    frames = draw(st.integers(1, 3)) if is_video else 1
    data = tuple(draw(st.binary(max_size=700)) for _ in range(frames))
    return Media(
        kind="video" if is_video else "image",
        files=tuple(f"{first_file + frame:03d}.jpg" for frame in range(frames)),
        width=draw(st.integers(1, 4096)),
        height=draw(st.integers(1, 4096)),
        sha256=tuple(hashlib.sha256(part).hexdigest() for part in data),
        origin=draw(TEXT),
        timestamps_s=tuple(float(frame) for frame in range(frames)) if is_video else None,
        duration_s=float(frames) if is_video else None,
        data=data,
    )
