from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import SourceError
from mimicit.sources import SOURCES, detect
from mimicit.sources.containers.json_cursor import JsonCursor
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InJson, InParquet, Item, Named, Picture, Reject, TrainEntry
from tests.factories.sources import (
    base64_jpeg,
    check_items,
    items_of,
    jpeg,
    json_values,
    one_source,
    put,
    reasons_of,
    triplets_of,
)

META = {"version": "0.0.1", "time": "2023-06", "author": "ntu"}
FRAMES = [f"DC_IMG_v_N1c3C_Npr-E_{frame:04d}" for frame in range(3)]
DC = {
    "DC_INS_00001": {
        "instruction": "Who is on the horse?",
        "answer": "A police officer.",
        "image_ids": FRAMES,
        "rel_ins_ids": ["DC_INS_00002", "DC_INS_00003"],
    },
    "DC_INS_00002": {"instruction": "Where?", "answer": "In a street.", "image_ids": FRAMES, "rel_ins_ids": []},
}


def put_set(root: Path, name: str, data: Any, pictures: Any = None, train: Any = None) -> None:
    put(root, f"{name}_instructions.json", {"meta": META, "data": data})
    if pictures is not None:
        put(root, f"{name}.json", pictures)
    if train is not None:
        put(root, f"{name}_train.json", train)


def put_parquet(path: Path, ids: list[str], index: str = "__index_level_0__") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [base64_jpeg(number) for number in range(len(ids))]
    pq.write_table(pa.table({"base64": texts, index: ids}), path, row_group_size=2)


def instruction(**fields: Any) -> dict[str, Any]:
    return {"instruction": "What?", "answer": "This."} | fields


def pictures_in(items: list[Item]) -> list[Picture]:
    return [item for item in items if isinstance(item, Picture)]


def test_a_set_as_released(tmp_path: Path) -> None:
    put_set(tmp_path, "DC", DC, {id: base64_jpeg(n) for n, id in enumerate(FRAMES)}, {"DC_INS_00001": ["DC_INS_00002"]})
    spec = one_source(tmp_path)
    assert (spec.name, spec.format) == ("dc", "mimicit")
    assert spec.files == ("DC_instructions.json", "DC_train.json", "DC.json")
    items = items_of(tmp_path)
    first, second = triplets_of(items)
    assert (first.id, first.place) == ("DC_INS_00001", "DC_instructions.json#DC_INS_00001")
    assert (first.instruction, first.answer) == ("Who is on the horse?", "A police officer.")
    assert first.related == ("DC_INS_00002", "DC_INS_00003")
    (video,) = first.media
    assert (video.kind, video.timestamps_s) == ("video", (0.0, 1.0, 2.0))
    assert video.parts == tuple(Named((id,)) for id in FRAMES)
    assert second.media == first.media
    entry = TrainEntry("DC_INS_00001", ("DC_INS_00002",), "DC_train.json#DC_INS_00001")
    assert [item for item in items if isinstance(item, TrainEntry)] == [entry]
    assert items.index(entry) == 2  # after the triplets
    with Reader(Root(tmp_path)) as reader:
        assert [(p.id, reader.read(p.locator)) for p in pictures_in(items)] == [
            (id, jpeg(number)) for number, id in enumerate(FRAMES)
        ]


@pytest.mark.parametrize("index", ["__index_level_0__", "index", "__null_dask_index__"])
@pytest.mark.parametrize(
    "names", [["DC.parquet"], ["DC.parquet/part.0.parquet", "DC.parquet/part.1.parquet"], ["DC/part.0.parquet"]]
)
def test_pictures_in_parquet(tmp_path: Path, index: str, names: list[str]) -> None:
    put_set(tmp_path, "DC", DC)
    for name in names:
        put_parquet(tmp_path / name, [f"{name}{number}" for number in range(5)], index)
    assert one_source(tmp_path).files == ("DC_instructions.json", *names)
    found = pictures_in(items_of(tmp_path))
    assert [picture.id for picture in found] == [f"{name}{number}" for name in names for number in range(5)]
    assert found[3].locator == InParquet(names[0], 1, 1, "base64")
    with Reader(Root(tmp_path)) as reader:
        assert [reader.read(picture.locator) for picture in found] == [jpeg(n) for _ in names for n in range(5)]


def test_what_image_ids_may_be(tmp_path: Path) -> None:
    data = {
        "absent": instruction(),
        "empty": instruction(image_ids=[]),
        "null": instruction(image_ids=None),
        "bare": instruction(image_ids="SD_IMG_00001_1"),
        "pair": instruction(image_ids=["SD_IMG_00001_1", "SD_IMG_00001_2"], rel_ins_ids=["bare"], split="x"),
    }
    put_set(tmp_path, "SD", data)
    found = {triplet.id: triplet for triplet in triplets_of(items_of(tmp_path))}
    assert [len(found[id].media) for id in data] == [0, 0, 0, 1, 2]
    assert found["pair"].related == ("bare",)
    assert found["pair"].meta == {"split": "x"}
    assert {triplet.conversation for triplet in found.values()} == {None}


def test_rounds_of_laconv_are_turns_that_name_their_picture(tmp_path: Path) -> None:
    data = {f"LACONV_00_INS_000000033471_{n}": instruction(image_ids=["LA_00_IMG_000000033471"]) for n in range(3)}
    put_set(tmp_path, "LACONV", data)
    found = triplets_of(items_of(tmp_path))
    assert [(t.conversation, t.turn) for t in found] == [("LACONV_00_INS_000000033471", n) for n in range(3)]
    assert len({t.media for t in found}) == 1
    assert found[0].media[0].parts[0] == Named(
        ("LA_00_IMG_000000033471", "LA_IMG_000000033471", "000000033471", "33471")
    )


def test_each_file_of_instructions_is_a_source_with_the_pictures_of_its_set(tmp_path: Path) -> None:
    pictures = {"LA_IMG_000000033471": base64_jpeg()}
    for name in ("LACONV", "LACR_T2T", "LADD"):
        put_set(tmp_path / "LA", name, {f"{name}_INS_1": instruction()})
    put(tmp_path, "LA/LA.json", pictures)
    put_set(tmp_path / "SN", "SN", {"SN_INS_1": instruction()}, pictures)
    put_parquet(tmp_path / "SN" / "SN.parquet", ["a"])  # the same set once more
    put_set(tmp_path / "moved", "VST", {"VST_INS_1": instruction()})
    put(tmp_path, "pictures/VST.json", pictures)
    detection = detect(Root(tmp_path))
    assert {spec.name: spec.files for spec in detection.sources} == {
        "laconv": ("LA/LACONV_instructions.json", "LA/LA.json"),
        "lacr_t2t": ("LA/LACR_T2T_instructions.json", "LA/LA.json"),
        "ladd": ("LA/LADD_instructions.json", "LA/LA.json"),
        "sn": ("SN/SN_instructions.json", "SN/SN.json"),
        "vst": ("moved/VST_instructions.json", "pictures/VST.json"),
    }
    assert detection.unused == ("SN/SN.parquet",)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (7, "malformed"),
        ({"answer": "This."}, "malformed"),
        ({"instruction": "What?"}, "malformed"),
        (instruction(answer=" "), "empty_answer"),
        (instruction(instruction=["What?"]), "malformed"),
        (instruction(image_ids=[[]]), "malformed"),
        (instruction(image_ids={"a": 1}), "malformed"),
        (instruction(rel_ins_ids=[None]), "malformed"),
    ],
)
def test_a_bad_instruction_is_one_reject(tmp_path: Path, record: Any, reason: str) -> None:
    put_set(tmp_path, "SD", {"good": instruction(), "bad": record, "last": instruction()})
    first, bad, last = items_of(tmp_path)
    assert reasons_of([bad]) == [reason]
    assert isinstance(bad, Reject)
    assert (bad.scope, bad.id, bad.locator) == ("record", "bad", "SD_instructions.json#bad")
    assert len(triplets_of([first, last])) == 2


def test_a_bad_training_entry_costs_only_itself(tmp_path: Path) -> None:
    train = {"SD_INS_1": ["SD_INS_2"], "SD_INS_2": {"a": 1}, "SD_INS_3": "SD_INS_1", "SD_INS_4": []}
    put_set(tmp_path, "SD", {"SD_INS_1": instruction()}, train=train)
    _, first, bad, bare, alone = items_of(tmp_path)
    assert isinstance(bad, Reject)
    assert (bad.scope, bad.reason, bad.id) == ("reference", "malformed", "SD_INS_2")
    assert [e.related for e in (first, bare, alone) if isinstance(e, TrainEntry)] == [("SD_INS_2",), ("SD_INS_1",), ()]


@pytest.mark.parametrize(
    "content",
    [
        '{"data": {"a": {"instruction": "x", "answer": "y"}',
        '{"data": {"a": {"answer": "y"}}} x',
        '{"data": {"a": {"answer": "y"}}, }',
    ],
)
def test_a_broken_file_is_a_fault_that_names_the_byte(tmp_path: Path, content: str) -> None:
    put(tmp_path, "SD_instructions.json", content)
    with pytest.raises(SourceError, match=r"^SD_instructions\.json: not valid JSON at byte \d+"):
        items_of(tmp_path)


def test_data_may_come_before_meta_and_be_empty(tmp_path: Path) -> None:
    put(tmp_path, "SD_instructions.json", {"data": {"a": instruction()}, "meta": META})
    assert len(items_of(tmp_path)) == 1
    put(tmp_path, "SD_instructions.json", {"meta": META, "data": {}})
    assert items_of(tmp_path) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mimicit")


fields = dict.fromkeys(("instruction", "answer", "image_ids", "rel_ins_ids", "x"), json_values)


@given(st.dictionaries(st.text(max_size=6), json_values | st.fixed_dictionaries({}, optional=fields), max_size=5))
def test_every_instruction_is_one_triplet_or_one_reject(folder: Path, data: dict[str, Any]) -> None:
    put_set(folder, "SD", data | {"first": instruction()})
    spec = SourceSpec(name="sd", format="mimicit", files=("SD_instructions.json",), why="")
    items = list(SOURCES["mimicit"].read(spec, Root(folder)))
    check_items(items, spec)
    assert len(items) == len({"first", *data})


def test_pictures_are_announced_and_not_read(tmp_path: Path) -> None:
    put_set(tmp_path, "SD", {"a": instruction()}, {"SD_IMG_1": base64_jpeg(), "SD_IMG_2": "!" * 100})
    first, second = pictures_in(items_of(tmp_path))
    assert isinstance(first.locator, InJson)
    text = (tmp_path / "SD.json").read_bytes()[first.locator.offset :][: first.locator.length]
    assert base64.b64decode(text) == jpeg()
    assert second.id == "SD_IMG_2"


@pytest.mark.parametrize(
    "odd",
    [
        *('"a": 5', '"": {"answer": "It."}', '"\\ud800": {"answer": "It."}', '"a": {"answer": NaN}', '"SD_INS_7": {}'),
        *('"a": {"answer": 1, "answer": 2}', '"a": {"answer": "It.", "b": {"instruction": 1, "c": 2}}', '"a": {]'),
    ],
)
@pytest.mark.parametrize("place", [0, 900])
def test_instructions_are_the_same_in_runs_and_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str, place: int
) -> None:
    records = [f'"SD_INS_{number}": {json.dumps(instruction())}' for number in range(1500)]
    records.insert(place, odd)
    put(tmp_path, "SD_instructions.json", f'{{"meta": {{}}, "data": {{{", ".join(records)}}}}}')
    spec = SourceSpec(name="sd", format="mimicit", files=("SD_instructions.json",), why="")

    def read() -> Iterator[object]:
        try:
            yield from SOURCES["mimicit"].read(spec, Root(tmp_path))
        except SourceError as error:
            yield str(error)

    in_runs = list(read())
    monkeypatch.setattr(JsonCursor, "run", lambda self, most: b"")
    assert in_runs == list(read())
