from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimicit.sources import SOURCES
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Item, Reject
from tests.factories.sources import check_items, items_of, jpeg, one_source, put, put_lines, triplets_of

RECORD = {"image": "val2014/a.jpg", "caption": "A cat.", "image_id": "coco_1"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "images/val2014/a.jpg", jpeg())
    put(tmp_path, "videos/clip.mp4", b"")
    return tmp_path


def read(root: Path, *records: Any) -> list[Item]:
    put(root, "captions.json", list(records))
    spec = SourceSpec(name="captions", format="captions", files=("captions.json",), why="")
    items = list(SOURCES["captions"].read(spec, Root(root)))
    check_items(items, spec)
    return items


@pytest.mark.parametrize("as_lines", [False, True])
def test_the_published_record(root: Path, as_lines: bool) -> None:
    (put_lines if as_lines else put)(root, "coco_karpathy_train.json", [RECORD])
    assert one_source(root).format == "captions"
    (triplet,) = triplets_of(items_of(root))
    assert (triplet.answer, triplet.media[0].origin) == ("A cat.", "images/val2014/a.jpg")
    assert triplet.meta == {"image_id": "coco_1"}
    assert triplet.instruction


def test_each_caption_of_a_list_is_a_triplet(root: Path) -> None:
    items = read(
        root,
        RECORD | {"id": "x", "caption": ["A cat.", " ", "The cat."]},
        RECORD | {"instance_id": 7, "caption": ["Only one."]},
        RECORD | {"caption": "Same picture."},
        {"video": "clip.mp4", "caption": "It moves.", "instance_id": "v"},
    )
    found = triplets_of(items)
    assert [*[t.id for t in found][:3], found[4].id] == ["x_0", "x_2", "7", "v"]
    assert [item.id for item in items if isinstance(item, Reject)] == ["x_1"]
    assert found[4].media[0].kind == "video"


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"caption": ""}, ["empty_answer"]),
        ({"caption": []}, ["empty_answer"]),
        ({"caption": [None, "A cat."]}, ["empty_answer"]),
        ({"caption": {"words": "A cat."}}, ["malformed"]),
        ({"image": "none.jpg"}, ["missing_file"]),
        ({"image": "none.jpg", "caption": ["a", "b"]}, ["missing_file"] * 2),
        ({"image": "../../a.jpg"}, ["outside_root"]),
        ({"image": "https://example.org/a.jpg"}, ["missing_file"]),
        ({"image": None}, ["malformed"]),
        ({"image": ["none.jpg"]}, ["missing_file"]),
        ({"id": {}}, ["malformed"]),
    ],
)
def test_a_caption_that_cannot_be_used_is_one_reject(root: Path, fields: dict[str, Any], reasons: list[str]) -> None:
    items = read(root, RECORD | fields, RECORD, 7)
    assert [item.reason for item in items if isinstance(item, Reject)] == [*reasons, "malformed"]
    assert triplets_of(items)[-1].answer == "A cat."
