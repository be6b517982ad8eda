from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError, SourceError
from mimicit.sources import SOURCES, detect
from mimicit.sources.containers.table_rows import _arrow_rows, class_names
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InArrow, InParquet, Reject
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
from tests.factories.tables import picture, put_arrow, put_parquet, table


def shown(root: Path, triplets: list[Any]) -> list[list[bytes]]:
    with Reader(Root(root)) as reader:
        return [[reader.read(part) for medium in t.media for part in medium.parts] for t in triplets]


QUESTIONS = [
    {"id": n, "image": picture(n, f"{n}.jpg"), "question": f"What is {n}?", "answer": f"It is {n}.", "level": n % 2}
    for n in range(5)
]


def test_question_answer_tables_in_parquet(tmp_path: Path) -> None:
    put_parquet(tmp_path, "vqa/data/train-00000-of-00002.parquet", QUESTIONS[:3])
    put_parquet(tmp_path, "vqa/data/train-00001-of-00002.parquet", QUESTIONS[3:])
    put_parquet(tmp_path, "vqa/data/test-00000-of-00001.parquet", QUESTIONS)
    assert [(spec.name, spec.format, len(spec.files)) for spec in detect(Root(tmp_path)).sources] == [
        ("test", "datasets", 1),
        ("train", "datasets", 2),
    ]
    spec = detect(Root(tmp_path)).sources[1]
    found = triplets_of(SOURCES["datasets"].read(spec, Root(tmp_path)))
    assert [(t.id, t.instruction, t.answer) for t in found] == [
        (str(n), f"What is {n}?", f"It is {n}.") for n in range(5)
    ]
    assert found[2].media[0].parts == (InParquet("vqa/data/train-00000-of-00002.parquet", 1, 0, "image"),)
    assert (found[2].media[0].origin, found[2].meta) == ("2.jpg", {"level": 0})
    assert found[3].place == "vqa/data/train-00001-of-00002.parquet[0]"
    assert shown(tmp_path, found) == [[jpeg(n)] for n in range(5)]


@pytest.mark.parametrize("stream", [True, False])
def test_a_saved_data_set(tmp_path: Path, stream: bool) -> None:
    for number in range(2):
        rows = QUESTIONS[:3] if number == 0 else QUESTIONS[3:]
        put_arrow(tmp_path, f"vqa/train/data-0000{number}-of-00002.arrow", rows, stream=stream)
    put_arrow(tmp_path, "vqa/train/cache-0123456789abcdef.arrow", QUESTIONS)
    put(tmp_path, "vqa/train/dataset_info.json", {"features": {}})
    put(tmp_path, "vqa/train/state.json", {"_data_files": []})
    put(tmp_path, "vqa/dataset_dict.json", {"splits": ["train"]})
    spec = one_source(tmp_path)
    folder = "vqa/train"
    assert spec.name == "train"
    assert spec.files == tuple(
        f"{folder}/{name}"
        for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow", "dataset_info.json", "state.json")
    )
    found = triplets_of(items_of(tmp_path))
    assert [t.id for t in found] == ["0", "1", "2", "3", "4"]
    assert found[2].media[0].parts == (InArrow(f"{folder}/data-00000-of-00002.arrow", 1, 0, "image"),)
    assert shown(tmp_path, found) == [[jpeg(n)] for n in range(5)]
    assert shown(tmp_path, found[::-1]) == [[jpeg(n)] for n in range(5)][::-1]  # backwards, too


def calls_of(function: Callable[[], Any]) -> tuple[Any, int]:
    """What ``function`` returns, and how many functions it called."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        return function(), calls
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("stream", [True, False])
def test_a_batch_for_each_row_costs_little_more_than_one_for_all(tmp_path: Path, stream: bool) -> None:
    content = table(QUESTIONS * 40)
    costs = []
    for name, rows in (("one", 1), ("all", len(content))):
        with (pa.ipc.new_stream if stream else pa.ipc.new_file)(tmp_path / f"{name}.arrow", content.schema) as writer:
            for number, batch in enumerate(content.to_batches(max_chunksize=rows)):
                for empty in range(number % 3):
                    writer.write_batch(batch.slice(empty, 0))
                writer.write_batch(batch)
        with open(tmp_path / f"{name}.arrow", "rb") as file:
            read = partial(_arrow_rows, file, f"{name}.arrow", 1024, (0, 0))
            rows_of, calls = calls_of(lambda read=read: list(read()))
        places = [media[0].parts[0] for *_, (_, media, _) in rows_of]
        with Reader(Root(tmp_path)) as reader:
            (last,), to_last = calls_of(lambda reader=reader, at=places[-1]: [reader.read(at)])
        assert last == jpeg(4)
        with Reader(Root(tmp_path)) as reader:
            assert [reader.read(at) for at in places] == [row["image"]["bytes"] for row in QUESTIONS] * 40
        assert [values["answer"] for *_, (values, *_) in rows_of] == content["answer"].to_pylist()
        costs.append((calls, to_last))
    assert costs[0][0] < 2 * costs[1][0]
    assert costs[0][1] < costs[1][1] + 4 * 2 * len(content)  # of the headers of two batches for each row


@pytest.mark.parametrize("place", ["a.parquet", "data-00000-of-00001.arrow"])
def test_the_cauldron(tmp_path: Path, place: str) -> None:
    rows = [
        {
            "images": [picture(1), picture(2)],
            "texts": [
                {"user": "What?", "assistant": "This.", "source": "VSR"},
                {"user": "And?", "assistant": "That.", "source": "VSR"},
            ],
        },
        {"images": [picture(3)], "texts": [{"user": "Who?", "assistant": "You.", "source": "TQA"}]},
        {"images": None, "texts": [{"user": "Why?", "assistant": "So.", "source": None}]},
    ]
    put_parquet(tmp_path, place, rows) if place.endswith("parquet") else put_arrow(tmp_path, place, rows)
    found = triplets_of(items_of(tmp_path))
    stem = place.rpartition(".")[0]
    assert [(t.id, t.instruction, t.answer, t.turn, t.meta) for t in found] == [
        (f"{stem}-0_0", "What?", "This.", 0, {"source": "VSR"}),
        (f"{stem}-0_1", "And?", "That.", 1, {"source": "VSR"}),
        (f"{stem}-1", "Who?", "You.", 0, {"source": "TQA"}),
        (f"{stem}-2", "Why?", "So.", 0, {}),
    ]
    assert found[0].conversation == found[1].conversation
    assert shown(tmp_path, found) == [[jpeg(1), jpeg(2)]] * 2 + [[jpeg(3)], []]


def test_rows_of_the_mimicit_hub(tmp_path: Path) -> None:
    row = {"instruction": "What?", "answer": "This.", "related instructions": []}
    rows = [
        row | {"id": "DC_INS_00001", "images": [picture(1), picture(2)], "related instructions": ["DC_INS_00002"]},
        row | {"id": "SD_INS_00001", "images": [picture(1), picture(2)]},
        row | {"id": "LACONV_00_INS_000000033471_1", "images": [picture(3)]},
    ]
    put_parquet(tmp_path, "mimic.parquet", rows)
    clip, pair, talk = triplets_of(items_of(tmp_path))
    assert [(m.kind, m.timestamps_s) for m in clip.media] == [("video", (0.0, 1.0))]
    assert (clip.related, clip.meta) == (("DC_INS_00002",), {})
    assert [m.kind for m in pair.media] == ["image", "image"]
    assert (talk.conversation, talk.turn) == ("LACONV_00_INS_000000033471", 1)
    assert shown(tmp_path, [clip, pair, talk]) == [[jpeg(1), jpeg(2)]] * 2 + [[jpeg(3)]]


def test_other_columns_that_say_the_same(tmp_path: Path) -> None:
    put_parquet(tmp_path, "a.parquet", [{"image": picture(1), "image_1": picture(2), "text": "Two cats."}])
    put_parquet(
        tmp_path, "b.parquet", [{"image": picture(1), "query": "Where?", "label": 3, "answers": ["a", "b", "b"]}]
    )
    talk = [{"from": "human", "value": "<image>\nHow?"}, {"from": "gpt", "value": "Well."}]
    put_parquet(tmp_path, "c.parquet", [{"id": "x", "image": picture(1), "conversations": talk, "data_source": "y"}])
    root = Root(tmp_path)
    a, b, c = (triplets_of(SOURCES["datasets"].read(spec, root))[0] for spec in detect(root).sources)
    assert (a.answer, len(a.media), a.id) == ("Two cats.", 2, "a-0")
    assert (b.instruction, b.answer, b.meta) == ("Where?", "b", {"label": 3, "answers": ["a", "b", "b"]})
    assert (c.id, c.instruction, c.answer, c.meta) == ("x", "How?", "Well.", {"data_source": "y"})


def test_bytes_win_and_a_path_stands_in_for_them(tmp_path: Path) -> None:
    put(tmp_path, "in/pictures/1.jpg", jpeg(1))
    paths = ["pictures/1.jpg", "../in/pictures/1.jpg", "/etc/passwd", "../../x.jpg", "none.jpg", None]
    rows = [{"image": {"bytes": None, "path": path}, "text": "x"} for path in paths]
    rows.append({"image": picture(2, "/etc/passwd"), "text": "x"})
    put_parquet(tmp_path, "in/a.parquet", rows)
    found = triplets_of(items_of(tmp_path))
    outcomes: list[bytes | str] = []
    with Reader(Root(tmp_path)) as reader:
        for triplet in found:
            try:
                outcomes.append(reader.read(triplet.media[0].parts[0]))
            except RejectedError as error:
                outcomes.append(error.reason)
    assert outcomes == [jpeg(1), jpeg(1), "outside_root", "outside_root", "missing_file", "bad_media", jpeg(2)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"texts": []}, "malformed"),
        ({"texts": [None]}, "malformed"),
        ({"texts": [{"user": "What?", "assistant": " "}]}, "empty_answer"),
        ({"texts": [{"user": "<image> <image>", "assistant": "x"}]}, "placeholder_mismatch"),
        ({"texts": [{"user": "What?", "assistant": "x"}], "more": "x" * 1_100_000}, "too_long"),
        ({"question": "What?"}, "empty_answer"),
        ({"question": "What?\0", "answer": "x"}, "malformed"),
        ({"id": "", "answer": "x"}, "malformed"),
    ],
)
@pytest.mark.parametrize("place", ["a.parquet", "a.arrow"])
def test_a_bad_row_costs_only_itself(tmp_path: Path, row: dict[str, Any], reason: str, place: str) -> None:
    good = {"image": picture(1), "answer": "x", "question": "y", "id": None}
    rows = [good, {"image": picture(2)} | row, good]
    put_parquet(tmp_path, place, rows) if place.endswith("parquet") else put_arrow(tmp_path, place, rows)
    items = items_of(tmp_path)
    assert [triplet.id for triplet in triplets_of(items)] == ["a-0", "a-2"]
    assert reasons_of(items) == [reason]
    (reject,) = [item for item in items if isinstance(item, Reject)]
    assert (reject.scope, reject.locator) == ("record", f"{place}[1]")


@pytest.mark.parametrize("stream", [True, False])
def test_a_damaged_arrow_file_is_a_fault_and_never_a_crash(tmp_path: Path, stream: bool) -> None:
    whole = put_arrow(tmp_path, "a.arrow", QUESTIONS, stream=stream).read_bytes()
    spec = one_source(tmp_path)
    for cut in range(8, len(whole), 97):
        put(tmp_path, "a.arrow", whole[:cut])
        with pytest.raises(SourceError, match=r"^a\.arrow: "):
            list(SOURCES["datasets"].read(spec, Root(tmp_path)))
    for place in range(0, len(whole), 31):
        put(tmp_path, "a.arrow", whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            items = list(SOURCES["datasets"].read(spec, Root(tmp_path)))
            shown(tmp_path, triplets_of(items))
        except (SourceError, RejectedError):
            continue


def test_a_file_that_is_no_table_is_a_fault(tmp_path: Path) -> None:
    put(tmp_path, "a.arrow", b"\xff\xff\xff\xff" + b"x" * 100)
    with pytest.raises(SourceError, match=r"^a\.arrow: damaged Arrow data"):
        items_of(tmp_path)


def test_tables_of_other_formats_are_left_alone(tmp_path: Path) -> None:
    text = {"instruction": ["What?"], "answer": ["This."]}
    pq.write_table(pa.table(text), tmp_path / "triplets.parquet")
    pq.write_table(pa.table({"base64": ["x"], "__index_level_0__": ["y"]}), tmp_path / "DC.parquet")
    pq.write_table(pa.table({"images": [["http://x/y.jpg"]], "texts": [["x"]]}), tmp_path / "obelics.parquet")
    pq.write_table(table([{"image": picture(1), "class": 3}]), tmp_path / "classes.parquet")
    put_lines(tmp_path, "x.jsonl", [{"question": "What?", "answer": "This."}])
    assert "datasets" not in {spec.format for spec in detect(Root(tmp_path)).sources}


def test_the_bytes_of_pictures_are_not_read_at_import(tmp_path: Path) -> None:
    """Half of the file are pictures; broken ones are noticed by whoever reads them."""
    noise = bytes(range(256)) * 4000
    put_parquet(tmp_path, "a.parquet", [{"image": {"bytes": noise, "path": None}, "text": "x"}])
    spec = SourceSpec(name="a", format="datasets", files=("a.parquet",), why="")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    start = content.index(bytes(range(256)) * 2) if bytes(range(256)) * 2 in content else 200
    content[start : start + 4] = b"XXXX"
    put(tmp_path, "a.parquet", bytes(content))
    items = list(SOURCES["datasets"].read(spec, Root(tmp_path)))
    check_items(items, spec)
    assert len(triplets_of(items)) == 1


FEATURES = {
    "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["red", "big"], "_type": "ClassLabel"}, "_type": "Sequence"},
    "colours": [{"names": ["blue"], "_type": "ClassLabel"}],
    "count": {"dtype": "int64", "_type": "Value"},
}


@pytest.mark.parametrize("place", ["train.parquet", "data-00000-of-00001.arrow"])
def test_class_labels_become_their_names(tmp_path: Path, place: str) -> None:
    rows = [
        {"image": picture(n), "label": label, "tags": [1, 0], "colours": [0], "count": 1}
        for n, label in enumerate([1, 0, -1, 7])
    ]
    content = table(rows).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    if place.endswith(".parquet"):
        pq.write_table(content, tmp_path / place, row_group_size=3)
    else:
        with pa.ipc.new_stream(tmp_path / place, content.schema) as writer:
            writer.write_table(content, max_chunksize=3)
    items = items_of(tmp_path)
    found = triplets_of(items)
    assert [t.answer for t in found] == ["dog", "cat"]
    assert found[0].meta == {"tags": ["big", "red"], "colours": ["blue"], "count": 1}
    assert reasons_of(items) == ["empty_answer", "malformed"]  # -1: nobody knows; 7 has no name


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {b"huggingface": b"{"}, {b"huggingface": b"[]"}, {b"huggingface": b'{"info": {"features": 7}}'}],
)
def test_features_that_say_nothing_change_nothing(metadata: dict[bytes, bytes] | None) -> None:
    assert class_names(metadata) == {}


@given(json_values | st.dictionaries(st.text(max_size=3), json_values | st.fixed_dictionaries({"names": json_values})))
def test_any_features_are_read(features: Any) -> None:
    value = json.dumps({"info": {"features": features}}).encode()
    assert all(all(isinstance(name, str) for name in names) for names in class_names({b"huggingface": value}).values())


@pytest.mark.parametrize("stream", [True, False])
def test_an_arrow_file_that_is_cut_while_it_is_read_is_named(tmp_path: Path, stream: bool) -> None:
    """The system kills whoever looks at pages of a file that are gone; so its length is looked at first."""
    path = tmp_path / "data-00000-of-00001.arrow"
    table = pa.table({"image": [bytes([number]) * 50_000 for number in range(20)]})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)
    with Reader(Root(tmp_path)) as reader:
        assert reader.read(InArrow(path.name, 0, 0, "image", None)) == bytes(50_000)
        with open(path, "rb+") as file:
            file.truncate(200_000)
        with pytest.raises(RejectedError, match="was cut while it was read"):
            reader.read(InArrow(path.name, 8, 0, "image", None))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_table_with_a_column_twice_is_named(tmp_path: Path, kind: str) -> None:
    table = pa.table([["a.jpg"], ["one"], ["two"]], names=["file_name", "text", "text"])
    if kind == "parquet":
        pq.write_table(table, tmp_path / "metadata.parquet")
    else:
        with pa.ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", table.schema) as writer:
            writer.write_table(table)
    found = detect(Root(tmp_path))
    for spec in found.sources:
        with pytest.raises(SourceError, match="several columns are called 'text'"):
            list(SOURCES[spec.format].read(spec, Root(tmp_path)))
    assert found.sources or found.unused
