from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimicit.errors import RejectedError
from mimicit.sources.base import InFile, InJson, InParquet, Locator, Named
from mimicit.sources.reading import Reader
from mimicit.sources.root import Root
from tests.factories.sources import base64_jpeg, jpeg, put

TEXT = base64_jpeg(3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path, "outside.jpg", jpeg(9))
    raw = tmp_path / "raw"
    put(raw, "a/b.jpg", jpeg(1))
    put(raw, "empty.jpg", b"")
    put(raw, "p.json", '{"a": "' + TEXT + '"}')
    (raw / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    cells = {"bytes": [jpeg(2), b""], "text": [TEXT, "!!"], "list": [[TEXT], []], "number": [1, 2]}
    pq.write_table(pa.table(cells), raw / "t.parquet")
    return raw


@pytest.mark.parametrize(
    ("locator", "shade"),
    [
        (InFile("a/b.jpg"), 1),
        (InJson("p.json", 7, len(TEXT)), 3),
        (InParquet("t.parquet", 0, 0, "bytes"), 2),
        (InParquet("t.parquet", 0, 0, "text"), 3),
        (InParquet("t.parquet", 0, 0, "list"), 3),
    ],
)
def test_every_place_gives_its_bytes(folder: Path, locator: Locator, shade: int) -> None:
    with Reader(Root(folder)) as reader:
        assert reader.read(locator) == reader.read(locator) == jpeg(shade)


@pytest.mark.parametrize(
    ("locator", "reason"),
    [
        (InFile("none.jpg"), "missing_file"),
        (InFile("a"), "missing_file"),
        (InFile("link.jpg"), "outside_root"),
        (InFile("empty.jpg"), "empty_media"),
        (InJson("none.json", 7, 4), "missing_file"),
        (InJson("p.json", 8, 4), "bad_media"),  # not between quotes
        (InJson("p.json", 7, 10**6), "bad_media"),  # past the end
        (InParquet("t.parquet", 0, 1, "bytes"), "empty_media"),
        (InParquet("t.parquet", 0, 1, "text"), "bad_base64"),
        (InParquet("t.parquet", 0, 1, "list"), "bad_media"),
        (InParquet("t.parquet", 0, 0, "number"), "bad_media"),
    ],
)
def test_what_cannot_be_read_has_its_reason(folder: Path, locator: Locator, reason: str) -> None:
    with Reader(Root(folder)) as reader, pytest.raises(RejectedError) as caught:
        reader.read(locator)
    assert caught.value.reason == reason


def test_limits_hold_before_anything_is_read(folder: Path) -> None:
    with Reader(Root(folder), max_file_bytes=100, max_base64_bytes=100) as reader:
        for locator in (InFile("a/b.jpg"), InJson("p.json", 7, len(TEXT)), InParquet("t.parquet", 0, 0, "text")):
            with pytest.raises(RejectedError, match="bad_media"):
                reader.read(locator)
        with pytest.raises(RejectedError, match="bad_media"):
            reader.path(InFile("a/b.jpg"))


def test_a_path_is_real_and_beneath_the_root(folder: Path) -> None:
    reader = Reader(Root(folder))
    assert reader.path(InFile("a/b.jpg")).read_bytes() == jpeg(1)
    with pytest.raises(RejectedError, match="outside_root"):
        reader.path(InFile("link.jpg"))
    with pytest.raises(RejectedError, match="unsupported_media"):
        reader.path(InJson("p.json", 7, 4))


def test_a_name_must_be_resolved_before(folder: Path) -> None:
    with pytest.raises(TypeError, match="resolve"):
        Reader(Root(folder)).read(Named(("LA_IMG_1",)))


def test_open_files_stay_few(folder: Path) -> None:
    for number in range(100):
        put(folder, f"many/{number}.json", '{"a": "' + TEXT + '"}')
    with Reader(Root(folder)) as reader:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(100):
            reader.read(InJson(f"many/{number}.json", 7, len(TEXT)))
        assert len(os.listdir("/proc/self/fd")) - before <= 16
    assert len(os.listdir("/proc/self/fd")) <= before
