from __future__ import annotations

from pathlib import Path

import pytest

from mimicit.sources import detect
from mimicit.sources.files.root import Root
from mimicit.sources.items import InFile, Reject
from mimicit.sources.records.captions import caption_instruction
from tests.factories.sources import items_of, jpeg, one_source, put, reasons_of, triplets_of


def test_a_caption_gets_an_instruction_from_the_pool(tmp_path: Path) -> None:
    put(tmp_path, "stamps/animals/cat.jpg", jpeg())
    put(tmp_path, "stamps/animals/cat.txt", "\ufeffA cat. \n")
    put(tmp_path, "stamps/run.mp4", b"clip")
    put(tmp_path, "stamps/run.txt", "Somebody runs.")
    spec = one_source(tmp_path)
    assert (spec.name, spec.format) == ("stamps", "folder")
    cat, run = triplets_of(items_of(tmp_path))
    assert (cat.id, cat.place, cat.answer) == ("stamps/animals/cat.jpg", "stamps/animals/cat.txt", "A cat.")
    assert cat.instruction == caption_instruction(cat.id, cat.media)
    assert [(medium.kind, medium.parts, medium.origin) for medium in cat.media + run.media] == [
        ("image", (InFile("stamps/animals/cat.jpg"),), "stamps/animals/cat.jpg"),
        ("video", (InFile("stamps/run.mp4"),), "stamps/run.mp4"),
    ]
    assert "video" in run.instruction or "clip" in run.instruction


def test_a_json_sidecar_is_a_triplet_or_several(tmp_path: Path) -> None:
    for stem in ("one", "two"):
        put(tmp_path, f"{stem}.png", jpeg())
    put(tmp_path, "one.json", {"id": 7, "instruction": "What?", "answer": "This.", "related": ["x"], "by": "me"})
    put(tmp_path, "two.json", [{"instruction": "Who?", "answer": 2}, {"answer": "A caption."}])
    one, first, second = triplets_of(items_of(tmp_path))
    assert one_source(tmp_path).name == "folder"
    assert (one.id, one.instruction, one.answer, one.related, one.meta) == ("7", "What?", "This.", ("x",), {"by": "me"})
    assert [(t.id, t.place, t.answer) for t in (first, second)] == [
        ("two.png#0", "two.json[0]", "2"),
        ("two.png#1", "two.json[1]", "A caption."),
    ]
    assert first.media == second.media


def test_a_description_beside_a_caption_becomes_its_meta(tmp_path: Path) -> None:
    put(tmp_path, "000000000.jpg", jpeg())
    put(tmp_path, "000000000.txt", "a cat on a mat")
    put(tmp_path, "000000000.json", {"caption": "a cat on a mat", "width": 8, "error_message": None})
    (triplet,) = triplets_of(items_of(tmp_path))
    assert triplet.answer == "a cat on a mat"
    assert triplet.meta == {"caption": "a cat on a mat", "width": 8, "error_message": None}


def test_what_lacks_its_half_is_a_reject(tmp_path: Path) -> None:
    put(tmp_path, "p/cat.jpg", jpeg())
    put(tmp_path, "p/cat.txt", "A cat.")
    put(tmp_path, "p/alone.jpg", jpeg())
    put(tmp_path, "p/lost.txt", "A picture that is not here.")
    put(tmp_path, "p/lost2.json", {"answer": "Neither is this."})
    put(tmp_path, "p/settings.json", {"theme": "dark"})
    put(tmp_path, "q/nobody.jpg", jpeg())  # no pair in this folder: not a source
    put(tmp_path, "q/README.txt", "Read me.")
    items = items_of(tmp_path)
    rejects = [(item.reason, item.locator) for item in items if isinstance(item, Reject)]
    assert sorted(rejects) == [
        ("missing_file", "p/lost.txt"),
        ("missing_file", "p/lost2.json"),
        ("missing_sidecar", "p/alone.jpg"),
    ]
    assert len(items) == 4
    detection = detect(Root(tmp_path))
    assert detection.unused == ("p/settings.json", "q/README.txt")
    assert detection.loose_media == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cat.txt", "", "empty_answer"),
        ("cat.txt", b"\xff", "malformed"),
        ("cat.txt", "x" * 1_000_001, "too_long"),
        ("cat.txt", "x" * 4_000_001, "too_long"),
        ("cat.json", "{", "malformed"),
        ("cat.json", [], "malformed"),
        ("cat.json", {"instruction": "What?"}, "malformed"),
        ("cat.json", [7], "malformed"),
        ("cat.json", {"id": [], "answer": "a"}, "malformed"),
    ],
)
def test_a_bad_sidecar_is_one_reject(tmp_path: Path, name: str, content: object, reason: str) -> None:
    put(tmp_path, "cat.jpg", jpeg())
    put(tmp_path, name, content)
    (item,) = items_of(tmp_path)
    assert reasons_of([item]) == [reason]


def test_two_media_of_one_stem_both_get_the_caption(tmp_path: Path) -> None:
    for name in ("cat.jpg", "cat.mp4"):
        put(tmp_path, name, jpeg())
    put(tmp_path, "cat.txt", "A cat.")
    assert [triplet.id for triplet in triplets_of(items_of(tmp_path))] == ["cat.jpg", "cat.mp4"]


def test_a_sidecar_may_have_the_whole_name_of_its_medium(tmp_path: Path) -> None:
    for name in ("cat.jpg", "cat.png", "dog.jpg", "dog.png", "fox.jpg", "run.mp4"):
        put(tmp_path, name, jpeg())
    for name in ("cat.jpg.txt", "cat.png.txt", "dog.jpg.txt", "dog.txt", "fox.txt"):
        put(tmp_path, name, name)
    put(tmp_path, "fox.jpg.json", {"licence": "CC0"})
    put(tmp_path, "run.mp4.json", {"instruction": "What?", "answer": "run.mp4.json"})
    triplets = triplets_of(items_of(tmp_path))
    assert {triplet.id: triplet.answer for triplet in triplets} == {
        "cat.jpg": "cat.jpg.txt",
        "cat.png": "cat.png.txt",
        "dog.jpg": "dog.jpg.txt",
        "dog.png": "dog.txt",
        "fox.jpg": "fox.txt",
        "run.mp4": "run.mp4.json",
    }
    assert [triplet.meta for triplet in triplets if triplet.id == "fox.jpg"] == [{"licence": "CC0"}]


def test_json_about_one_of_two_media_takes_no_caption_of_both_away(tmp_path: Path) -> None:
    for name in ("cat.jpg", "cat.mp4"):
        put(tmp_path, name, jpeg())
    put(tmp_path, "cat.txt", "A cat.")
    put(tmp_path, "cat.jpg.json", {"width": 1})
    assert [triplet.id for triplet in triplets_of(items_of(tmp_path))] == ["cat.jpg", "cat.mp4"]


def test_the_stem_of_a_medium_comes_before_its_whole_name(tmp_path: Path) -> None:
    for name in ("cat.jpg", "dog.jpg", "dog.jpg.png"):
        put(tmp_path, name, jpeg())
    for name in ("cat.jpg.txt", "cat.txt", "dog.jpg.txt", "dog.txt"):
        put(tmp_path, name, name)
    captions = [(triplet.id, triplet.answer) for triplet in triplets_of(items_of(tmp_path))]
    assert captions == [
        ("cat.jpg", "cat.txt"),  # which a build keeps
        ("cat.jpg", "cat.jpg.txt"),
        ("dog.jpg", "dog.txt"),
        ("dog.jpg.png", "dog.jpg.txt"),
    ]


def test_two_texts_beside_a_picture_are_two_captions(tmp_path: Path) -> None:
    put(tmp_path, "cat.jpg", jpeg())
    for name in ("cat.TXT", "cat.txt"):
        put(tmp_path, name, name)
    captions = [(triplet.id, triplet.answer) for triplet in triplets_of(items_of(tmp_path))]
    assert captions == [
        ("cat.jpg", "cat.TXT"),
        ("cat.jpg", "cat.txt"),
    ]  # a build keeps the first, and rejects the other


def test_one_source_for_each_folder_at_the_top(tmp_path: Path) -> None:
    for folder in ("", "b/", "a/x/", "a/y/z/"):
        put(tmp_path, f"{folder}cat.jpg", jpeg())
        put(tmp_path, f"{folder}cat.txt", "A cat.")
    sources = detect(Root(tmp_path)).sources
    assert [(spec.name, len(spec.files)) for spec in sources] == [("a", 4), ("b", 2), ("folder", 2)]
