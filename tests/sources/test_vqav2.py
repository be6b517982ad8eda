from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimicit.errors import SourceError
from mimicit.sources import SOURCES, detect
from mimicit.sources.files.root import Root
from mimicit.sources.items import Item, Note, Reject
from tests.factories.formats import put_vqa, vqa_annotation, vqa_question
from tests.factories.sources import items_of, jpeg, put, reasons_of, triplets_of

QUESTION = vqa_question(458752000, 458752)
ANNOTATION = vqa_annotation(458752000, 458752)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "coco/train2014/COCO_train2014_000000458752.jpg", jpeg())
    return tmp_path


def read(root: Path, questions: list[Any], annotations: list[Any] | None) -> list[Item]:
    put_vqa(root, "coco", questions, annotations)
    return items_of(root)


def test_questions_and_answers_are_joined_whatever_their_order(root: Path) -> None:
    numbers = range(5)
    questions = [vqa_question(number, 458752) for number in numbers]
    annotations = [vqa_annotation(number, 458752, multiple_choice_answer=str(number)) for number in reversed(numbers)]
    found = triplets_of(read(root, questions, annotations))
    assert [(t.id, t.instruction, t.answer) for t in found] == [
        (str(number), f"What is in {number}?", str(number)) for number in numbers
    ]
    first = found[0]
    assert first.meta["answers"] == [f"net {number}" for number in range(1, 11)]
    assert (first.meta["question_type"], first.meta["answer_type"]) == ("what", "other")
    assert [medium.origin for medium in first.media] == ["coco/train2014/COCO_train2014_000000458752.jpg"]
    assert first.place == "coco/v2_OpenEnded_mscoco_train2014_questions.json#questions[0]"


@pytest.mark.parametrize(
    "path",
    [
        "vqa/COCO_train2014_000000458752.jpg",
        "vqa/images/COCO_train2014_000000458752.jpg",
        "vqa/train2014/COCO_train2014_000000458752.jpg",
        "vqa/images/train2014/COCO_train2014_000000458752.jpg",
        "train2014/COCO_train2014_000000458752.jpg",
        "vqa/000000458752.jpg",
    ],
)
def test_pictures_are_found_in_the_usual_folders(tmp_path: Path, path: str) -> None:
    put(tmp_path, path, jpeg())
    put_vqa(tmp_path, "vqa", [QUESTION], [ANNOTATION])
    (triplet,) = triplets_of(items_of(tmp_path))
    assert triplet.media[0].origin == path


def test_a_test_split_is_rejected_question_by_question(root: Path) -> None:
    items = read(root, [QUESTION, vqa_question(2, 458752)], None)
    assert reasons_of(items) == ["empty_answer"] * 2


@pytest.mark.parametrize(
    ("question", "annotation", "reason"),
    [
        (QUESTION, None, "empty_answer"),
        (vqa_question(458752000, 7), vqa_annotation(458752000, 7), "missing_file"),
        (vqa_question(458752000, 7), ANNOTATION, "missing_file"),
        (QUESTION, vqa_annotation(458752000, 7), "malformed"),  # another picture
        (QUESTION | {"image_id": "458752"}, ANNOTATION, "malformed"),
        (QUESTION | {"question": ""}, ANNOTATION, "malformed"),
        (QUESTION | {"question_id": None}, None, "malformed"),
        (QUESTION, ANNOTATION | {"multiple_choice_answer": " "}, "empty_answer"),
        (QUESTION, ANNOTATION | {"multiple_choice_answer": None}, "empty_answer"),
        (QUESTION, ANNOTATION | {"multiple_choice_answer": ["net"]}, "malformed"),
        ("What?", None, "malformed"),
    ],
)
def test_a_question_that_cannot_be_used_is_one_reject(root: Path, question: Any, annotation: Any, reason: str) -> None:
    others = [vqa_question(1, 458752), question]
    items = read(root, others, [vqa_annotation(1, 458752), *([annotation] if annotation else [])])
    assert [(item.scope, item.reason) for item in items if isinstance(item, Reject)] == [("record", reason)]
    assert [triplet.id for triplet in triplets_of(items)] == ["1"]


def test_annotations_that_answer_nothing_are_counted(root: Path) -> None:
    broken = vqa_annotation(3, 458752, answers=["net"])
    items = read(root, [QUESTION], [ANNOTATION, ANNOTATION, vqa_annotation(2, 458752), broken, 7])
    assert [(item.scope, item.reason) for item in items if isinstance(item, Reject)] == [
        ("reference", "duplicate_id"),
        ("reference", "malformed"),
        ("reference", "malformed"),
        ("reference", "dangling_reference"),
    ]
    assert items[-1].locator == "coco/v2_mscoco_train2014_annotations.json#annotations[2]"  # type: ignore[union-attr]


def test_each_split_finds_its_own_answers(tmp_path: Path) -> None:
    for subtype in ("train2014", "val2014"):
        put(tmp_path, f"vqa/{subtype}/COCO_{subtype}_000000000001.jpg", jpeg())
        put_vqa(tmp_path, "vqa", [vqa_question(1, 1)], [vqa_annotation(1, 1, multiple_choice_answer=subtype)], subtype)
    put_vqa(tmp_path, "vqa", [vqa_question(1, 1)], None, "test2015")
    put_vqa(tmp_path, "old", [vqa_question(1, 1)], [vqa_annotation(1, 1)], "val2014")
    specs = detect(Root(tmp_path)).sources
    assert sorted(len(spec.files) for spec in specs) == [1, 2, 2, 2]
    answers = {
        spec.files: [triplet.answer for triplet in triplets_of(SOURCES["vqav2"].read(spec, Root(tmp_path)))]
        for spec in specs
    }
    prefix = "vqa/v2_OpenEnded_mscoco_"
    assert answers[f"{prefix}val2014_questions.json", "vqa/v2_mscoco_val2014_annotations.json"] == ["val2014"]
    assert answers[f"{prefix}train2014_questions.json", "vqa/v2_mscoco_train2014_annotations.json"] == ["train2014"]
    assert answers[(f"{prefix}test2015_questions.json",)] == []


@pytest.mark.parametrize(
    ("subtype", "beside", "reason"),
    [
        ("..", "COCO_.._000000000001.jpg", "missing_file"),
        ("images/..", "COCO_images/.._000000000001.jpg", "missing_file"),
        ("a/../../x", "x_000000000001.jpg", "outside_root"),
    ],
)
def test_a_subtype_that_leads_elsewhere_opens_nothing_outside(
    tmp_path: Path, subtype: str, beside: str, reason: str
) -> None:
    put(tmp_path, beside, jpeg())
    raw = tmp_path / "raw"
    files = {"questions": [vqa_question(1, 1)], "annotations": [vqa_annotation(1, 1)]}
    for name, rows in files.items():
        put(raw, f"{name}.json", {"data_subtype": subtype, name: rows})
    assert reasons_of(items_of(raw)) == [reason]


def test_a_damaged_file_is_a_source_error(root: Path) -> None:
    put_vqa(root, "coco", [QUESTION], [ANNOTATION])
    path = root / "coco/v2_mscoco_train2014_annotations.json"
    path.write_text(path.read_text()[:-3])
    with pytest.raises(SourceError, match="annotations"):
        items_of(root)


def test_nan_in_an_answer_becomes_null_and_is_noted(root: Path) -> None:
    items = read(root, [QUESTION], [vqa_annotation(458752000, 458752, answer_type=float("nan"))])
    (triplet,) = triplets_of(items)
    assert triplet.meta["answer_type"] is None
    assert [item.kind for item in items if isinstance(item, Note)] == ["nan_as_null"]
