from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.sources.files.root import Root
from mimicit.sources.sniff import Head, sniff
from tests.factories.sources import base64_jpeg, json_values, put, put_lines

TALK = {"id": "1", "conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]}
TALK_FIELDS = {
    "": "object",
    "id": "text",
    "conversations": "array",
    "conversations[]": "object",
    "conversations[].from": "text",
    "conversations[].value": "text",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sniff")


def head_of(folder: Path, content: bytes | str | Any, name: str = "f.json") -> Head:
    put(folder, name, content)
    return sniff(Root(folder), name)


@pytest.mark.parametrize("name", ["f.json", "f.jsonl", "f", "f.log", "f.token"])
def test_json_is_known_by_its_content(folder: Path, name: str) -> None:
    assert head_of(folder, [TALK, TALK], name) == Head("array", (TALK_FIELDS,), (2,))
    put_lines(folder, name, [TALK, TALK])
    assert sniff(Root(folder), name) == Head("lines", (TALK_FIELDS,), (2,))


def test_every_record_counts_and_not_the_first_alone(folder: Path) -> None:
    records = [{"id": "x"}, *[TALK] * 998, {"id": "y", "late": 1}, {"id": "z", "unseen": 1}]
    for name, content in (("f.json", records), ("f.jsonl", "".join(json.dumps(r) + "\n" for r in records))):
        head = head_of(folder, content, name)
        assert head.shapes == ({"": "object", "id": "text"}, TALK_FIELDS, {"": "object", "id": "text", "late": "other"})
        assert head.counts == (1, 998, 1)
        assert head.of_most().shapes == (TALK_FIELDS,)


def test_shapes_are_bounded_and_none_is_lost(folder: Path) -> None:
    head = head_of(folder, [{f"k{number}": 1, "answer": "a"} for number in range(900)] + [TALK])
    assert len(head.shapes) == 32
    assert sum(head.counts) == 901
    assert head.any(lambda fields: "k899" in fields or len(fields) >= 512)


def test_a_list_inside_a_record_is_described_by_all_its_elements(folder: Path) -> None:
    fields = head_of(folder, {"images": [{}, {"file_name": "a.jpg"}], "annotations": [None, {"caption": "x"}]}).fields
    assert {"images[].file_name", "annotations[].caption"} <= fields.keys()


def test_members_of_a_big_object_that_differ_are_described(folder: Path) -> None:
    pictures = {**{f"no{number}": None for number in range(500)}, "yes": base64_jpeg()}
    assert head_of(folder, pictures).fields["yes"] == "base64"
    assert head_of(folder, json.dumps(pictures, indent=1)).fields["yes"] == "base64"


def test_a_big_object_on_one_line_is_an_object(folder: Path) -> None:
    pictures = {f"LA_IMG_{number:012d}": base64_jpeg() for number in range(1000)}
    head = head_of(folder, pictures)
    assert head.kind in ("object", "lines")
    assert list(head.fields)[1] == "LA_IMG_000000000000"
    assert head.fields["LA_IMG_000000000000"] == "base64"


def test_a_picture_longer_than_what_is_read_is_still_base64(folder: Path) -> None:
    assert head_of(folder, {"LA_IMG_1": "A" * 1_000_000}).fields["LA_IMG_1"] == "base64"


def test_a_first_line_that_is_broken_does_not_hide_the_others(folder: Path) -> None:
    content = '{"answer": \n{"instruction": "What?", "answer": "This."}\n'
    assert head_of(folder, content, "f.jsonl").fields.keys() == {"", "instruction", "answer"}


def test_tables_have_their_columns(folder: Path) -> None:
    assert head_of(folder, "\ufeffid,answer\n1,a\n", "f.csv") == Head("csv", ({"id": "text", "answer": "text"},), (1,))
    pq.write_table(pa.table({"id": ["a"], "image": [b"x"]}), folder / "f.bin")
    assert sniff(Root(folder), "f.bin") == Head("parquet", ({"id": "string", "image": "binary"},), (1,))
    assert head_of(folder, b"PAR1 damaged PAR1", "f.parquet") == Head("parquet")


def test_a_token_beside_a_picture_is_no_caption_of_it(folder: Path) -> None:
    assert head_of(folder, "cls eos\n", "cat.token").kind == "other"


def test_media_and_captions_are_known_by_name_alone(tmp_path: Path) -> None:
    assert [sniff(Root(tmp_path), name).kind for name in ("a.JPG", "b.mp4", "c.txt")] == ["image", "video", "text"]


@given(st.binary(max_size=60) | json_values, st.sampled_from(["f.json", "f.jsonl", "f.csv", "f.parquet"]))
def test_no_content_is_too_odd_to_look_at(folder: Path, content: Any, name: str) -> None:
    assert head_of(folder, content if isinstance(content, bytes) else [content], name).kind not in ("image", "video")


@given(json_values)
def test_where_a_file_is_cut_does_not_change_what_comes_before(folder: Path, value: Any) -> None:
    whole = head_of(folder, [{"record": value}])
    text = (folder / "f.json").read_bytes()
    for end in range(1, len(text), 7):
        cut = head_of(folder, text[:end])
        assert cut.kind == "array"
        assert list(cut.fields) == list(whole.fields)[: len(cut.fields)]
