from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimicit.sources import detect
from mimicit.sources.files.root import Root
from mimicit.sources.items import Reject
from tests.factories.formats import coco, coco_image
from tests.factories.sources import items_of, jpeg, one_source, put, triplets_of

CAPTION = {"image_id": 9, "id": 1, "caption": "A cat."}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "val2017/000000000009.jpg", jpeg())
    return tmp_path


def put_captions(root: Path, images: list[Any], annotations: list[Any]) -> None:
    put(root, "annotations/captions_val2017.json", coco(images, annotations))


def test_every_caption_is_a_triplet_with_an_instruction_that_never_changes(root: Path) -> None:
    put_captions(root, [coco_image(9)], [CAPTION, CAPTION | {"id": 2, "caption": "The cat.\n"}])
    spec = one_source(root)
    assert (spec.name, spec.format) == ("captions_val2017", "coco-captions")
    first, second = triplets_of(items_of(root))
    assert [(t.id, t.answer, t.instruction) for t in (first, second)] == [
        ("1", "A cat.", "How would you caption this picture?"),
        ("2", "The cat.", "Give a short description of the picture."),
    ]
    assert first.media == second.media
    assert first.media[0].origin == "val2017/000000000009.jpg"
    assert first.meta == {"image_id": 9}


def test_captions_are_told_from_other_annotations_behind_any_number_of_pictures(root: Path) -> None:
    images = [coco_image(number) for number in range(5000)]  # longer than the first look at a file
    put_captions(root, images, [CAPTION])
    put(root, "annotations/instances_val2017.json", coco(images, [{"id": 1, "image_id": 9, "bbox": [0, 0, 1, 1]}]))
    put(root, "annotations/image_info_test2017.json", {"info": {}, "images": images})
    put(root, "turned.json", {"annotations": [CAPTION], "images": images})
    detection = detect(Root(root))
    assert [(spec.files, spec.format) for spec in detection.sources] == [
        (("annotations/captions_val2017.json",), "coco-captions"),
        (("turned.json",), "coco-captions"),
    ]
    assert detection.unused == ("annotations/image_info_test2017.json", "annotations/instances_val2017.json")


@pytest.mark.parametrize(
    ("image", "annotation", "reasons"),
    [
        (coco_image(9), CAPTION | {"image_id": 10}, [("record", "dangling_reference")]),
        (coco_image(9, "none.jpg"), CAPTION, [("record", "missing_file")]),
        (coco_image(9, "../../none.jpg"), CAPTION, [("record", "outside_root")]),
        (coco_image(9), CAPTION | {"caption": "\n"}, [("record", "empty_answer")]),
        (coco_image(9), CAPTION | {"caption": None}, [("record", "empty_answer")]),
        (coco_image(9), CAPTION | {"caption": {"no": "text"}}, [("record", "malformed")]),
        (coco_image(9), CAPTION | {"id": None}, [("record", "malformed")]),
        (coco_image(9), 7, [("record", "malformed")]),
        (
            coco_image(8) | {"file_name": 7},
            CAPTION | {"image_id": 8},
            [("media", "malformed"), ("record", "dangling_reference")],
        ),
        (coco_image(1), CAPTION, [("media", "duplicate_id"), ("record", "dangling_reference")]),
    ],
)
def test_a_caption_that_cannot_be_used_is_one_reject(
    root: Path, image: Any, annotation: Any, reasons: list[tuple[str, str]]
) -> None:
    good = CAPTION | {"id": 0, "image_id": 1}
    put_captions(root, [coco_image(1, "000000000009.jpg"), image], [good, annotation])
    items = items_of(root)
    assert [(item.scope, item.reason) for item in items if isinstance(item, Reject)] == reasons
    assert [triplet.id for triplet in triplets_of(items)] == ["0"]
