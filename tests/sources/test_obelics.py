from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mimicit.sources import SOURCES, detect
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InFile, InTar, Item, Reject
from tests.factories.formats import OBELICS_SCHEMA, img2dataset_table, obelics_table, tar_of, write_table
from tests.factories.sources import check_items, items_of, jpeg, one_source, put, put_lines, triplets_of

URLS = [f"https://example.org/{number}.jpg" for number in range(4)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four URLs: the first in a folder, the second in a tar, the third failed, and the fourth has no file."""
    write_table(tmp_path, "images/00000.parquet", img2dataset_table(URLS, {2: "failed_to_download"}))
    put(tmp_path, "images/00000/000000000.jpg", jpeg(0))
    put(tmp_path, "images/00000.tar", tar_of({"000000001.png": jpeg(1), "000000001.json": b"{}"}))
    return tmp_path


def rejects(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.scope, item.reason) for item in items if isinstance(item, Reject)]


def read(root: Path, *documents: list[str]) -> list[Item]:
    write_table(root, "train-00000-of-00001.parquet", obelics_table(documents))
    return items_of(root)


def test_pieces_are_interleaved_as_published(root: Path) -> None:
    (first, second) = triplets_of(read(root, ["a", URLS[0], URLS[1], "b", "c", URLS[0], "d"], [URLS[1], "e"]))
    assert first.parts == ((0, "a"), (2, "b\n\nc"), (1, "d"))
    assert second.parts == ((1, "e"),)
    assert (first.meta, second.meta) == ({"url": "http://example.org/0"}, {})  # the second has "[]" there
    assert [medium.parts for medium in first.media][::2] == [(InFile("images/00000/000000000.jpg"),)] * 2
    (tarred,) = first.media[1].parts
    assert isinstance(tarred, InTar)
    with Reader(Root(root)) as reader:
        assert reader.read(tarred) == jpeg(1)


def test_a_picture_without_a_download_is_counted_and_nothing_is_fetched(root: Path) -> None:
    items = read(
        root, [URLS[0], "a", URLS[2], URLS[3], "https://example.org/unknown.jpg", "b", URLS[1]], [URLS[2], "c"]
    )
    assert rejects(items) == [
        ("media", "missing_file"),
        ("media", "missing_file"),
        ("media", "missing_file"),
        ("media", "unpaired_media"),
        ("media", "missing_file"),
        ("record", "no_media"),
    ]
    assert [document.parts for document in triplets_of(items)] == [((1, "a\n\nb"),)]


def row(**fields: Any) -> dict[str, Any]:
    return {
        "images": [URLS[0], None],
        "texts": [None, "a"],
        "metadata": "[null, null]",
        "general_metadata": "{}",
    } | fields


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"images": [URLS[0]]}, "malformed"),
        ({"images": [URLS[0], URLS[0]]}, "malformed"),
        ({"texts": [None, None]}, "malformed"),
        ({"texts": None}, "malformed"),
        ({"texts": [None, " "]}, "empty_answer"),
        ({"images": [None], "texts": ["a"]}, "no_media"),
        ({"images": [], "texts": []}, "empty_answer"),
        ({"general_metadata": "{"}, "malformed"),
    ],
)
def test_a_document_that_cannot_be_used_is_one_reject(root: Path, fields: dict[str, Any], reason: str) -> None:
    table = pa.Table.from_pylist([row(**fields), row()], schema=OBELICS_SCHEMA)
    write_table(root, "train-00000-of-00001.parquet", table)
    items = items_of(root)
    assert [(item.scope, item.reason, item.locator) for item in items if isinstance(item, Reject)] == [
        ("record", reason, "train-00000-of-00001.parquet[0]")
    ]
    assert len(triplets_of(items)) == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_map_of_paths_is_relative_to_its_folder(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "maps/a.jpg", jpeg(0))
    rows = [
        {"url": URLS[0], "path": "a.jpg"},
        {"url": URLS[1], "path": "../../a.jpg"},
        {"url": None, "path": "a.jpg"},
        {"url": URLS[2], "path": None},
        {"url": URLS[0], "path": "later.jpg"},
    ]
    if kind == "csv":
        lines = "".join(f"{row['url'] or ''},{row['path'] or ''}\n" for row in rows)
        put(tmp_path, "maps/urls.csv", f"url,path\n{lines}")
    elif kind == "jsonl":
        put_lines(tmp_path, "maps/urls.jsonl", rows)
    else:
        write_table(tmp_path, "maps/urls.parquet", pa.Table.from_pylist(rows))
    items = read(tmp_path, [URLS[0], URLS[1], URLS[2], "a"])
    assert rejects(items) == [("reference", "malformed"), ("media", "outside_root"), ("media", "malformed")]
    assert [medium.origin for medium in triplets_of(items)[0].media] == ["maps/a.jpg"]


def test_the_nearest_maps_are_used_and_sets_with_captions_are_left_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for part in range(2):
            write_table(tmp_path, f"{name}/data/train-0000{part}-of-00002.parquet", obelics_table([[URLS[part], name]]))
        write_table(tmp_path, f"{name}/images/00000.parquet", img2dataset_table(URLS))
    captions = img2dataset_table(URLS).append_column("caption", pa.array(["x"] * 4))
    write_table(tmp_path, "laion/00000.parquet", captions)
    detection = detect(Root(tmp_path))
    assert [(spec.name, spec.format) for spec in detection.sources] == [
        ("one-data", "obelics"),
        ("two-data", "obelics"),
    ]
    assert [spec.files[-1] for spec in detection.sources] == ["one/images/00000.parquet", "two/images/00000.parquet"]
    assert detection.unused == ("laion/00000.parquet",)


def test_tables_of_pictures_are_not_taken(tmp_path: Path) -> None:
    cells = {"images": [[{"bytes": jpeg(0), "path": "a.jpg"}]], "texts": [[{"user": "What?", "assistant": "This."}]]}
    write_table(tmp_path, "cauldron/train-00000-of-00001.parquet", pa.table(cells))
    assert "obelics" not in {spec.format for spec in detect(Root(tmp_path)).sources}


def test_the_other_string_type_is_read_too(root: Path) -> None:
    kinds = pa.large_list(pa.large_string())
    schema = pa.schema([("images", kinds), ("texts", kinds)])
    write_table(
        root, "train.parquet", pa.Table.from_pylist([{"images": [URLS[0], None], "texts": [None, "a"]}], schema)
    )
    spec = one_source(root)
    assert isinstance(spec, SourceSpec)
    items = list(SOURCES["obelics"].read(spec, Root(root)))
    check_items(items, spec)
    assert triplets_of(items)[0].parts == ((1, "a"),)
