"""Samples written many at a time are byte for byte what each would be by itself."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mimicit.pipeline.parts import ColumnFile, batches_of_rows, write_columns
from mimicit.pipeline.stages.sample_json import Chosen, SampleWriter
from mimicit.pipeline.tables import MEDIA, TRIPLETS
from mimicit.records import Media, sample_key, sample_to_json
from mimicit.schema import canonical_json
from mimicit.shards.index import RELATIONS, sample_costs
from mimicit.shards.tar import member_span
from tests.factories.assembling import Part, assemble
from tests.factories.strategies import TEXT

SAID = pa.schema([TRIPLETS.field(name) for name in ("id", "instruction", "answer", "media")])
NUMBERS = st.integers(0, 3)  # of media
MEDIA_AT_HAND = [
    Media(
        kind="image" if frames == 1 else "video",
        files=tuple(f"{frame:03d}.webp" for frame in range(frames)),
        width=8,
        height=9,
        sha256=(f"{frames:064x}",) * frames,
        origin='a "kind":"video" \\ é.jpg',
        timestamps_s=None if frames == 1 else tuple(frame / 3 for frame in range(frames)),
        duration_s=None if frames == 1 else 2.5,
    )
    for frames in (1, 3, 1, 12)
]
SAYING = st.tuples(TEXT, TEXT, TEXT, st.lists(NUMBERS, max_size=3))
WHY = st.one_of(
    st.tuples(st.sampled_from(RELATIONS), st.none() | st.floats(-1, 1, allow_subnormal=False)),
    st.just((None, None)),
)


@dataclass(frozen=True)
class Row:
    """A sample: its triplets by place, and why each is there."""

    triplets: list[tuple[int, tuple[str | None, float | None]]]
    source: str
    meta: dict[str, str]


ROW = st.builds(
    Row,
    st.lists(st.tuples(st.integers(0, 2), WHY), min_size=1, max_size=4),
    st.sampled_from(["s", "b-2"]),
    st.dictionaries(TEXT, TEXT, max_size=2),
)


def media_table(folder: Path) -> ColumnFile:
    rows = []
    for medium in MEDIA_AT_HAND:
        value = {name: getattr(medium, name) for name in ("kind", "width", "height", "sha256", "origin")}
        value |= {name: getattr(medium, name) for name in ("timestamps_s", "duration_s")} | {"extension": "webp"}
        sizes = [700 + place for place in range(len(medium.files))]
        rows.append(("c", canonical_json(value), "f", sizes, sizes, 8, 9, 10, None, None, None, 0))
    write_columns(folder / "media.arrow", MEDIA, batches_of_rows(rows, MEDIA))
    return ColumnFile(folder / "media.arrow")


@given(st.lists(SAYING, min_size=3, max_size=3), st.lists(ROW, min_size=1, max_size=5))
def test_samples_are_those_that_are_made_one_by_one(
    said: list[tuple[str, str, str, list[int]]], rows: list[Row]
) -> None:
    why: dict[tuple[str | None, float | None], int] = {}
    reasons = [why.setdefault(reason, len(why)) for row in rows for _, reason in row.triplets]
    chosen = Chosen(
        said=next(batches_of_rows(said, SAID)),
        triplets=np.array([place for row in rows for place, _ in row.triplets]),
        reasons=np.array(reasons),
        why=list(why),
        counts=np.array([len(row.triplets) for row in rows]),
        sources=[row.source for row in rows],
        meta=pa.array([canonical_json(row.meta) for row in rows], pa.large_binary()),
    )
    with tempfile.TemporaryDirectory() as folder:
        found = SampleWriter(media_table(Path(folder)), RELATIONS).rows(chosen).to_pylist()
    for row, one in zip(rows, found, strict=True):
        parts = [
            Part(id=id, media=tuple(media), instruction=instruction, answer=answer, relation=relation, score=score)
            for place, (relation, score) in row.triplets
            for id, instruction, answer, media in [said[place]]
        ]
        sample, shown = assemble(
            parts, dict(enumerate(MEDIA_AT_HAND)), id=parts[-1].id, source=row.source, meta=row.meta
        )
        text = canonical_json(sample_to_json(sample))
        costs = sample_costs(sample)
        span = sum(member_span(700 + place) for n in shown for place in range(len(MEDIA_AT_HAND[n].files)))
        assert one == {
            "key": sample_key(row.source, sample.id),
            "id": sample.id,
            "source": row.source,
            "json": text,
            "digest": hashlib.sha256(text).digest(),
            "media": shown,
            "size": member_span(len(text)) + span,
            **{name: costs[name] for name in ("triplets", "videos", "frames", "characters")},
            "relations": costs["relations"],
        }
