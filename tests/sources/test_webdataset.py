from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import SourceError
from mimicit.sources import SOURCES, detect
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InTar, Reject
from tests.factories.sources import (
    check_items,
    items_of,
    jpeg,
    json_values,
    one_source,
    put,
    put_lines,
    reasons_of,
    triplets_of,
)
from tests.factories.tars import put_tar

DESCRIPTION = {
    "caption": "a cat on a mat",
    "url": "https://example.org/cat.jpg",
    "key": "000000000",
    "status": "success",
    "error_message": None,
    "width": 8,
    "height": 8,
    "original_width": 640,
    "original_height": 480,
    "exif": "{}",
    "sha256": "0" * 64,
}
TALK = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "Where?"},
    {"from": "gpt", "value": "On a mat."},
]


def sample(name: str, shade: int = 0, text: str = "a cat", **row: Any) -> list[tuple[str, Any]]:
    """What img2dataset writes for one picture."""
    files: list[tuple[str, Any]] = [(f"{name}.jpg", jpeg(shade)), (f"{name}.txt", text)]
    return [*files, (f"{name}.json", row)] if row else files


def test_shards_of_img2dataset(tmp_path: Path) -> None:
    for number in range(2):
        files = [
            file
            for place in range(2)
            for file in sample(f"0000{number}000{place}", 2 * number + place, "a cat on a mat", **DESCRIPTION)
        ]
        put_tar(tmp_path, f"cats/0000{number}.tar", files)
        put(tmp_path, f"cats/0000{number}_stats.json", {"count": 2, "successes": 2})
    spec = one_source(tmp_path)
    assert (spec.name, spec.format, spec.files) == ("cats", "webdataset", ("cats/00000.tar", "cats/00001.tar"))
    found = triplets_of(items_of(tmp_path))
    assert [triplet.id for triplet in found] == [
        f"0000{tar}.tar/0000{tar}000{place}" for tar in range(2) for place in range(2)
    ]
    assert {triplet.answer for triplet in found} == {"a cat on a mat"}
    assert found[0].place == "cats/00000.tar#000000000"
    assert found[0].meta["url"] == "https://example.org/cat.jpg"
    assert found[0].meta["original_width"] == 640
    assert not {"caption", "key"} & found[0].meta.keys()
    with Reader(Root(tmp_path)) as reader:
        assert [reader.read(triplet.media[0].parts[0]) for triplet in found] == [jpeg(n) for n in range(4)]


def test_where_the_text_may_be(tmp_path: Path) -> None:
    put_tar(
        tmp_path,
        "a.tar",
        [
            *sample("text"),
            ("described.jpg", jpeg()),
            ("described.json", {"caption": "a dog", "answer_type": "x"}),
            ("asked.jpg", jpeg()),
            ("asked.json", {"instruction": "What?", "answer": "A bird.", "related": ["text"], "license": "CC0"}),
            ("told.jpg", jpeg()),
            ("told.json", {"conversations": TALK, "id": 7, "split": "x"}),
        ],
    )
    found = {triplet.id.removeprefix("a.tar/"): triplet for triplet in triplets_of(items_of(tmp_path))}
    assert {id: triplet.answer for id, triplet in found.items()} == {
        "text": "a cat",
        "described": "a dog",
        "asked": "A bird.",
        "told_0": "A cat.",
        "told_1": "On a mat.",
    }
    assert found["described"].meta == {"answer_type": "x"}
    assert (found["asked"].instruction, found["asked"].related) == ("What?", ("a.tar/text",))
    assert found["asked"].meta == {"license": "CC0"}
    assert [
        (t.instruction, t.conversation == t.place, t.turn, len(t.media)) for id, t in found.items() if "told" in id
    ] == [
        ("What is it?", True, 0, 1),
        ("Where?", True, 1, 1),
    ]
    assert found["told_0"].meta == {"split": "x"}


def test_several_pictures_are_shown_in_the_order_of_the_tar(tmp_path: Path) -> None:
    files = [("x.2.jpg", jpeg(2)), ("x.txt", "three"), ("x.0.jpg", jpeg(0)), ("x.1.PNG", jpeg(1)), ("x.npy", b"?")]
    put_tar(tmp_path, "a.tar", files)
    (triplet,) = triplets_of(items_of(tmp_path))
    with Reader(Root(tmp_path)) as reader:
        assert [reader.read(medium.parts[0]) for medium in triplet.media] == [jpeg(n) for n in (2, 0, 1)]
    assert [medium.origin for medium in triplet.media] == ["a.tar#x.2.jpg", "a.tar#x.0.jpg", "a.tar#x.1.PNG"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("bad.txt", "a cat")], "missing_file"),
        ([("bad.jpg", b"x")], "missing_sidecar"),
        ([("bad.jpg", b"x"), ("bad.json", {"url": "y"})], "missing_sidecar"),
        ([("bad.jpg", b"x"), ("bad.json", {"caption": None})], "empty_answer"),
        ([("bad.jpg", b"x"), ("bad.txt", " ")], "empty_answer"),
        ([("bad.jpg", b"x"), ("bad.txt", b"\xff\xfe\xfd")], "malformed"),
        ([("bad.jpg", b"x"), ("bad.txt", b"x" * 5_000_000)], "too_long"),
        ([("bad.jpg", b"x"), ("bad.json", "{")], "malformed"),
        ([("bad.jpg", b"x"), ("bad.json", [1])], "malformed"),
        ([("bad.jpg", b"x"), ("bad.json", {"conversations": []})], "malformed"),
        (
            [("bad.jpg", b"x"), ("bad.json", {"conversations": [TALK[0] | {"value": "<image><image>?"}, TALK[1]]})],
            "placeholder_mismatch",
        ),
        ([("bad.jpg", b"x"), ("bad.txt", "x"), ("bad.json", {"a": "x" * 1_100_000})], "too_long"),
    ],
)
def test_a_bad_sample_costs_only_itself(tmp_path: Path, files: list[tuple[str, Any]], reason: str) -> None:
    put_tar(tmp_path, "a.tar", [*sample("first"), *files, *sample("last")])
    items = items_of(tmp_path)
    assert [triplet.id for triplet in triplets_of(items)] == ["a.tar/first", "a.tar/last"]
    rejects = [item for item in items if isinstance(item, Reject)]
    assert set(reasons_of(rejects)) == {reason}
    assert all((reject.scope, reject.locator) == ("record", "a.tar#bad") for reject in rejects)
    assert all(reject.id.startswith("a.tar/bad") for reject in rejects)


def test_a_cut_tar_is_a_fault_of_the_file(tmp_path: Path) -> None:
    place = put_tar(tmp_path, "a.tar", [*sample("first"), *sample("last")])
    place.write_bytes(place.read_bytes()[:4000])
    with pytest.raises(SourceError, match=r"^a\.tar: "):
        items_of(tmp_path)


def test_tars_of_other_things_are_left_alone(tmp_path: Path) -> None:
    put_tar(tmp_path, "images.tar", [(f"train/{n}.jpg", jpeg(n)) for n in range(3)])
    put_tar(tmp_path, "papers.tar", [("a/readme.txt", "x"), ("b/figure.jpg", jpeg()), ("c.json", {"a": 1})])
    put_tar(tmp_path, "empty.tar", [])
    put_lines(tmp_path, "manifest.jsonl", [{"instruction": "What?", "answer": "This."}])
    detection = detect(Root(tmp_path))
    assert [spec.format for spec in detection.sources] == ["manifest"]
    assert detection.unused == ("empty.tar", "images.tar", "papers.tar")
    assert one_source(tmp_path, format="webdataset").files == ("images.tar", "papers.tar")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("webdataset")


fields = dict.fromkeys(("instruction", "answer", "caption", "related", "meta", "conversations", "x"), json_values)


@given(st.lists(json_values | st.fixed_dictionaries({}, optional=fields), max_size=4))
def test_every_sample_gives_an_item(folder: Path, rows: list[Any]) -> None:
    put_tar(
        folder, "a.tar", [f for n, row in enumerate(rows) for f in ((f"{n}.jpg", b"x"), (f"{n}.json", json.dumps(row)))]
    )
    spec = SourceSpec(name="a", format="webdataset", files=("a.tar",), why="")
    items = list(SOURCES["webdataset"].read(spec, Root(folder)))
    check_items(items, spec)
    assert len(items) >= len(rows)
    assert all(isinstance(m.parts[0], InTar) for t in triplets_of(items) for m in t.media)
