from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimicit.pipeline import BuildConfig
from mimicit.sources.items import Reject
from tests.factories.builds import build
from tests.factories.sources import items_of, jpeg, one_source, put, triplets_of

CAPTION = {"image_id": "2", "caption": "The image shows a man fishing."}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "cc_sbu_align/image/2.jpg", jpeg())
    put(tmp_path, "cc_sbu_align/image/3.png", jpeg())
    return tmp_path


@pytest.mark.parametrize("indent", [True, False])
def test_pictures_are_found_by_their_name_without_extension(root: Path, indent: bool) -> None:
    text = (
        '{"annotations": [{"image_id": "2", "caption": "A man."}, {"image_id": 3, "caption": "A stamp.", "by": "x"}]}'
    )
    put(root, "cc_sbu_align/filter_cap.json", text.replace("{", "{\n") if indent else text)
    spec = one_source(root)
    assert (spec.name, spec.format) == ("filter_cap", "minigpt4")
    first, second = triplets_of(items_of(root))
    assert [(t.id, t.answer, t.media[0].origin, t.meta) for t in (first, second)] == [
        ("2", "A man.", "cc_sbu_align/image/2.jpg", {}),
        ("3", "A stamp.", "cc_sbu_align/image/3.png", {"by": "x"}),
    ]


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (CAPTION | {"image_id": "none"}, "missing_file"),
        (CAPTION | {"image_id": "../../../x"}, "outside_root"),
        (CAPTION | {"image_id": None}, "malformed"),
        (CAPTION | {"caption": " "}, "empty_answer"),
        (CAPTION | {"caption": ["A man."]}, "malformed"),
        (None, "malformed"),
    ],
)
def test_a_caption_that_cannot_be_used_is_one_reject(root: Path, annotation: Any, reason: str) -> None:
    put(root, "cc_sbu_align/filter_cap.json", {"annotations": [CAPTION, annotation]})
    items = items_of(root)
    (reject,) = [item for item in items if isinstance(item, Reject)]
    assert (reject.reason, reject.locator) == (reason, "cc_sbu_align/filter_cap.json#annotations[1]")
    assert len(triplets_of(items)) == 1


def test_a_second_caption_of_a_picture_is_a_record_of_its_own(root: Path, tmp_path: Path) -> None:
    captions = ["A man.", "A boat.", "A man."]
    put(root, "cc_sbu_align/filter_cap.json", {"annotations": [CAPTION | {"caption": text} for text in captions]})
    built = build(root, tmp_path / "out", BuildConfig(context="none"))
    assert {sample.id: sample.query.answer for sample in built.samples.values()} == {"2": "A man.", "2~2": "A boat."}
    (reject,) = built.rejects
    assert (reject["reason"], reject["locator"]) == ("duplicate_id", "cc_sbu_align/filter_cap.json#annotations[2]")
