"""The field that says which pictures of a MIMIC-IT instruction are frames of clips: exact, or a reject."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.formats.mimicit_ids import CLIPS, media_with_clips
from tests.factories.sources import base64_jpeg, items_of, json_values, put, reasons_of, triplets_of

IDS = ("IMG_a", "DC_IMG_b_0000", "DC_IMG_b_0001", "IMG_c")


def clip(first: Any, frames: Any, *times_s: float, **fields: Any) -> dict[str, Any]:
    return {"first": first, "frames": frames, "timestamps_s": list(times_s), **fields}


def kinds(ids: tuple[str, ...], clips: object) -> list[tuple[MediaKind, int]]:
    return [(medium.kind, len(medium.parts)) for medium in media_with_clips(ids, clips)]


def test_clips_and_pictures_keep_their_order() -> None:
    media = media_with_clips(IDS, [clip(1, 2, 0.0, 0.4, duration_s=0.8)])
    assert [(medium.kind, medium.origin) for medium in media] == [
        ("image", "IMG_a"), ("video", "DC_IMG_b"), ("image", "IMG_c"),
    ]  # fmt: skip
    assert (media[1].timestamps_s, media[1].duration_s) == ((0.0, 0.4), 0.8)
    assert kinds(IDS, []) == [("image", 1)] * 4
    assert kinds(IDS, [clip(0, 1, 0.0), clip(1, 3, 0.0, 1.0, 2.0)]) == [("video", 1), ("video", 3)]


@pytest.mark.parametrize(
    "clips",
    [
        None,
        {},
        [7],
        [clip(0, 0)],
        [clip(-1, 1, 0.0)],
        [clip(3, 2, 0.0, 1.0)],
        [clip(2, 1, 0.0), clip(0, 1, 0.0)],  # not in order
        [clip(0, 2, 0.0, 1.0), clip(1, 1, 0.0)],  # one picture twice
        [clip(True, 1, 0.0)],
        [clip(0, 2, 0.0)],
        [clip(0, 1, 1.0, duration_s=0.5)],
    ],
)
def test_what_does_not_fit_the_ids_is_malformed(clips: object, tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="malformed"):
        media_with_clips(IDS, clips)
    record = {"instruction": "What?", "answer": "This.", "image_ids": IDS, CLIPS: clips}
    put(tmp_path, "X_instructions.json", {"data": {"a": record, "b": record | {CLIPS: [clip(0, 1, 0.0)]}}})
    put(tmp_path, "X.json", {id: base64_jpeg() for id in IDS})
    items = items_of(tmp_path)
    assert reasons_of(items) == ["malformed"]
    (good,) = triplets_of(items)
    assert [medium.kind for medium in good.media] == ["video", "image", "image", "image"]
    assert CLIPS not in good.meta


@given(json_values | st.lists(st.dictionaries(st.sampled_from(["first", "frames", "timestamps_s"]), json_values)))
def test_any_value_is_media_or_a_reject(clips: object) -> None:
    with contextlib.suppress(RejectedError):
        media = media_with_clips(IDS, clips)
        assert sum(len(medium.parts) for medium in media) == len(IDS)
