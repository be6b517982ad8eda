from __future__ import annotations

import csv
import datetime
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.sources import SOURCES
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import RawTriplet, Reject
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

ROWS: list[dict[str, Any]] = [
    {"id": "a", "media": "images/0.jpg", "instruction": "What?", "answer": "This.", "related": ["b"], "split": "train"},
    {"id": "b", "media": ["images/0.jpg", "c.mp4"], "instruction": "And?", "answer": "That.", "related": ["a", "c"]},
    {"id": "c", "media": None, "instruction": "Say hello.", "answer": "Hello."},
]


def add_media(root: Path) -> None:
    put(root, "own/images/0.jpg", jpeg())
    put(root, "c.mp4", b"clip")


def as_csv(rows: list[dict[str, Any]], separator: str) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["id", "media", "instruction", "answer", "related", "split"])
    writer.writeheader()
    for row in rows:
        cells = {}
        for name, value in row.items():
            is_list = isinstance(value, list)
            cells[name] = (json.dumps(value) if separator == "[" else separator.join(value)) if is_list else value
        writer.writerow(cells)
    return text.getvalue()


def put_manifest(root: Path, form: str) -> None:
    if form == "jsonl":
        put_lines(root, "own/manifest.jsonl", ROWS)
    elif form == "json":
        put(root, "own/manifest.json", ROWS)
    elif form == "parquet":
        rows = [{**row, "media": [row["media"]] if isinstance(row["media"], str) else row["media"]} for row in ROWS]
        pq.write_table(pa.Table.from_pylist(rows), root / "own" / "manifest.parquet")
    else:
        put(root, "own/manifest.csv", as_csv(ROWS, form))


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet", "[", ";", "|"])
def test_every_form_of_the_table_says_the_same(tmp_path: Path, form: str) -> None:
    add_media(tmp_path)
    put_manifest(tmp_path, form)
    spec = one_source(tmp_path)
    assert (spec.name, spec.format) == ("own", "manifest")
    found = triplets_of(items_of(tmp_path))
    assert [(t.id, t.instruction, t.answer, t.related, t.meta) for t in found] == [
        ("a", "What?", "This.", ("b",), {"split": "train"}),
        ("b", "And?", "That.", ("a", "c"), {}),
        ("c", "Say hello.", "Hello.", (), {}),
    ]
    assert [[(medium.kind, medium.origin) for medium in t.media] for t in found] == [
        [("image", "own/images/0.jpg")],
        [("image", "own/images/0.jpg"), ("video", "c.mp4")],  # the second one relative to the root
        [],
    ]


@pytest.mark.parametrize("column", ["media", "image", "images", "video"])
def test_names_of_the_media_column(tmp_path: Path, column: str) -> None:
    put(tmp_path, "a.gif", b"GIF89a")
    put_lines(tmp_path, "train.jsonl", [{column: "a.gif", "instruction": "What?", "answer": "This."}])
    (triplet,) = triplets_of(items_of(tmp_path))
    assert [medium.kind for medium in triplet.media] == ["video" if column == "video" else "image"]
    assert triplet.meta == {}


@pytest.mark.parametrize(
    ("header", "separator", "encoding"),
    [
        ("image,question,answer", ",", "utf-8"),
        ("Image;Question;Answer", ";", "utf-8-sig"),
        ("file_name\tprompt\tresponse", "\t", "utf-16"),
        ("File Name,Question,Output", ",", "utf-8"),
        ("image_path,question,answer", ",", "utf-8"),
    ],
)
def test_a_table_as_people_write_it_is_the_manifest(tmp_path: Path, header: str, separator: str, encoding: str) -> None:
    add_media(tmp_path)
    row = ("images\\0.jpg", "What is \u00e4?", "This.")
    found = []
    for names in (header, separator.join(("media", "instruction", "answer"))):
        put(tmp_path, "own/questions.csv", f"{names}\r\n{separator.join(row)}\r\n".encode(encoding))
        (triplet,) = triplets_of(items_of(tmp_path))
        found.append(triplet)
    assert found[0]._replace(id="") == found[1]._replace(id="")
    assert (found[0].instruction, found[0].answer, found[0].meta) == ("What is \u00e4?", "This.", {})
    assert [medium.origin for medium in found[0].media] == ["own/images/0.jpg"]


@pytest.mark.parametrize("header", ["image,caption", "filename,text", "path,label"])
def test_a_table_of_pictures_and_captions_needs_no_question(tmp_path: Path, header: str) -> None:
    add_media(tmp_path)
    put(tmp_path, "own/captions.csv", f"{header}\nimages/0.jpg,A square.\n")
    (triplet,) = triplets_of(items_of(tmp_path))
    assert (triplet.answer, len(triplet.media), triplet.meta) == ("A square.", 1, {})
    assert triplet.instruction


def test_a_decomposed_name_finds_the_file_and_the_other_way_round(tmp_path: Path) -> None:
    put(tmp_path, "B\u00e4r.jpg", jpeg())
    put(tmp_path, "U\u0308bung.jpg", jpeg())
    put(tmp_path, "t.csv", "image,question,answer\nBa\u0308r.jpg,What?,A bear.\n\u00dcbung.jpg,What?,Practice.\n")
    origins = [triplet.media[0].origin for triplet in triplets_of(items_of(tmp_path))]
    assert origins == ["B\u00e4r.jpg", "U\u0308bung.jpg"]  # as they lie on the disk


def test_an_ending_in_capitals_is_named_and_not_guessed(tmp_path: Path) -> None:
    put(tmp_path, "cat.JPG", jpeg())
    put(tmp_path, "t.csv", "image,question,answer\ncat.jpg,What?,A cat.\ndog.jpg,What?,A dog.\n")
    details = [item.detail for item in items_of(tmp_path) if isinstance(item, Reject)]
    assert details[0].endswith("there is 'cat.JPG'")
    assert details[1].endswith("write paths relative to it, or to the file that names them")


def test_a_record_without_an_id_gets_one_from_its_content(tmp_path: Path) -> None:
    rows = [{"instruction": "What?", "answer": answer} for answer in ("a", "b", "a")]
    put_lines(tmp_path, "manifest.jsonl", rows)
    first, second, third = triplets_of(items_of(tmp_path))
    assert first.id == third.id != second.id
    put_lines(tmp_path, "manifest.jsonl", rows[::-1])
    assert {triplet.id for triplet in triplets_of(items_of(tmp_path))} == {first.id, second.id}


def test_an_answer_without_an_instruction_is_a_caption(tmp_path: Path) -> None:
    add_media(tmp_path)
    put_lines(tmp_path, "own/manifest.jsonl", [{"image": "images/0.jpg", "answer": "A square."}])
    (triplet,) = triplets_of(items_of(tmp_path))
    assert triplet.instruction
    assert triplet.answer == "A square."


def test_values_of_parquet_that_json_does_not_know(tmp_path: Path) -> None:
    row = {
        "id": 7.0,
        "instruction": "How many?",
        "answer": 3,
        "day": datetime.date(2024, 2, 29),
        "missing": float("nan"),
        "nested": {"when": datetime.datetime(2024, 2, 29, 12), "scores": [1.5, float("inf")]},
        "thumbnail": b"\xff\xd8",
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "manifest.parquet")
    (triplet,) = triplets_of(items_of(tmp_path))
    assert (triplet.id, triplet.answer) == ("7", "3")
    assert triplet.meta == {"day": "2024-02-29", "nested": {"when": "2024-02-29 12:00:00", "scores": [1.5, "inf"]}}


def test_meta_of_its_own_and_other_columns_are_one(tmp_path: Path) -> None:
    base = {"instruction": "What?", "answer": "This.", "split": "train"}
    put_lines(tmp_path, "manifest.jsonl", [base | {"meta": {"by": "me", "split": "x"}}, base | {"meta": "free"}])
    assert [dict(t.meta) for t in triplets_of(items_of(tmp_path))] == [
        {"by": "me", "split": "train"},
        {"meta": "free", "split": "train"},
    ]
    put(tmp_path, "manifest.jsonl", "")
    put(tmp_path, "own.csv", 'instruction,answer,meta\nWhat?,This.,"{""by"": ""me""}"\n')
    assert [dict(t.meta) for t in triplets_of(items_of(tmp_path))] == [{"by": "me"}]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"answer": " "}, "empty_answer"),
        ({"answer": None}, "empty_answer"),
        ({"answer": [{}]}, "malformed"),
        ({"answer": [None]}, "empty_answer"),
        ({"instruction": 7}, "malformed"),
        ({"instruction": None}, "malformed"),
        ({"media": "none.jpg"}, "missing_file"),
        ({"media": "../../secret.jpg"}, "outside_root"),
        ({"media": "/etc/passwd"}, "outside_root"),
        ({"media": "link.jpg"}, "outside_root"),
        ({"media": [7]}, "malformed"),
        ({"media": {"path": "a.jpg"}}, "missing_file"),
        ({"media": {"paths": "a.jpg"}}, "malformed"),
        ({"media": ["images/0.jpg", None]}, "malformed"),
        ({"id": ""}, "malformed"),
        ({"id": True}, "malformed"),
        ({"related": {"a": 1}}, "malformed"),
        ({"extra": "x" * 1_000_001}, "too_long"),
    ],
)
def test_a_bad_record_is_one_reject(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    add_media(tmp_path)
    (tmp_path / "own" / "link.jpg").symlink_to("images/0.jpg")
    good = {"id": "good", "instruction": "What?", "answer": "This."}
    put_lines(tmp_path, "own/manifest.jsonl", [good, good | {"id": "bad"} | fields, good])
    items = items_of(tmp_path)
    assert [type(item) for item in items] == [RawTriplet, Reject, RawTriplet]
    assert reasons_of(items) == [reason]
    assert isinstance(items[1], Reject)
    assert items[1].locator == "own/manifest.jsonl:2"


records = st.fixed_dictionaries(
    {},
    optional={
        name: json_values | st.text(max_size=8)
        for name in ("id", "media", "image", "instruction", "answer", "related", "meta", "x")
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifest")


@given(st.lists(records | json_values, max_size=5), st.booleans())
def test_every_record_is_one_triplet_or_one_reject(folder: Path, values: list[Any], is_array: bool) -> None:
    values = [{}, *values]
    if is_array:
        put(folder, "m.json", values)
    else:
        put_lines(folder, "m.json", values)
    spec = SourceSpec(name="m", format="manifest", files=("m.json",), why="")
    items = list(SOURCES["manifest"].read(spec, Root(folder)))
    check_items(items, spec)
    listed = [value for value in values if isinstance(value, list) and all(isinstance(entry, dict) for entry in value)]
    more = 0 if is_array else sum(len(value) - 1 for value in listed if value)  # a line may list records
    assert len(items) == len(values) + more


def test_pictures_inside_a_table_are_left_to_other_formats(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [jpeg()], "instruction": ["What?"], "answer": ["This."]}), tmp_path / "t.parquet")
    assert one_source(tmp_path).format == "datasets"


def test_every_list_of_a_large_object_is_read(tmp_path: Path) -> None:
    rows = [{"instruction": "q" * 4_000, "answer": str(number)} for number in range(2_500)]
    put(tmp_path, "d.json", {"version": 1, "train": rows, "val": rows[:2]})  # after what a look at the file shows
    spec = one_source(tmp_path)
    (piece,) = SOURCES["manifest"].split(spec, Root(tmp_path))
    found = triplets_of(SOURCES["manifest"].read(replace(spec, piece=piece), Root(tmp_path)))
    assert [item.answer for item in found] == [row["answer"] for row in [*rows, *rows[:2]]]


def test_a_text_without_an_answer_is_named_as_the_question_that_it_was_taken_for(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", jpeg())
    fields = {"question_id": 1, "image": "a.jpg", "text": "A red car."}
    put_lines(tmp_path, "manifest.jsonl", [fields, fields | {"label": "yes"}])
    reject, found = items_of(tmp_path)
    assert isinstance(reject, Reject) and "'text' is taken for the question" in reject.detail
    assert isinstance(found, RawTriplet) and (found.instruction, found.answer) == ("A red car.", "yes")


def test_two_choices_that_two_fields_name_are_named_in_the_reject(tmp_path: Path) -> None:
    record = {"instruction": "Q?", "choices": ["dog", "cat"], "answer": "dog", "answer_idx": 1}
    put_lines(tmp_path, "manifest.jsonl", [record])
    (reject,) = items_of(tmp_path)
    assert isinstance(reject, Reject) and reject.reason == "malformed"
    assert reject.detail == "answer_idx int 1 and answer str 'dog' are two choices"


@pytest.mark.parametrize("fields", [{"A": "hound", "B": "puppy"}, {"a1": 3, "a2": 5}, {"X": 3, "Y": 5}])
def test_fields_that_are_no_choices_are_free(tmp_path: Path, fields: dict[str, Any]) -> None:
    put_lines(tmp_path, "manifest.jsonl", [{"instruction": "Q?", "answer": "poodle", **fields}])
    (found,) = triplets_of(items_of(tmp_path))
    assert (found.instruction, found.answer, found.meta) == ("Q?", "poodle", fields)
