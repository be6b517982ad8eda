from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimicit.errors import RejectedError
from mimicit.sources.files import reading
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.items import InFile, InJson, InParquet, InTar, Locator, Named
from tests.factories.sources import base64_jpeg, jpeg, put
from tests.factories.tars import put_tar

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
        for locator in (InFile("a/b.jpg"), InTar("t.tar", 512, 3_000_000)):
            with pytest.raises(RejectedError, match="bad_media"), reader.as_file(locator):
                pass


def test_a_file_is_handed_over_where_it_lies(folder: Path) -> None:
    reader = Reader(Root(folder))
    with reader.as_file(InFile("a/b.jpg")) as path:
        assert os.path.samefile(path, folder / "a" / "b.jpg")
    with pytest.raises(RejectedError, match="outside_root"), reader.as_file(InFile("link.jpg")):
        pass


@pytest.mark.parametrize("swapped", ["a/b.jpg", "a"])
@pytest.mark.parametrize("copies", [False, True])
def test_a_name_that_leads_elsewhere_by_now_is_not_opened_again(
    folder: Path, tmp_path: Path, swapped: str, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if copies:  # as on systems without /proc
        monkeypatch.setattr(reading, "_OPEN_DESCRIPTORS", tmp_path / "none")
    put(tmp_path, "elsewhere/b.jpg", jpeg(9))
    with Reader(Root(folder)).as_file(InFile("a/b.jpg")) as path:
        (folder / swapped).rename(tmp_path / "moved")
        (folder / swapped).symlink_to(tmp_path / ("outside.jpg" if swapped.endswith(".jpg") else "elsewhere"))
        assert path.read_bytes() == jpeg(1)


def test_what_lies_inside_another_file_is_copied_for_as_long_as_it_is_needed(folder: Path, tmp_path: Path) -> None:
    big = bytes(range(256)) * 10_000  # several blocks
    put_tar(folder, "t.tar", [("a.mp4", big), ("empty.mp4", b"")])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    places = {InTar("t.tar", 512, len(big)): big, InParquet("t.parquet", 0, 0, "bytes"): jpeg(2)}
    with Reader(Root(folder), scratch=scratch) as reader:
        for locator, content in places.items():
            with reader.as_file(locator) as path:
                assert scratch in path.parents
                assert path.read_bytes() == content
            assert not list(scratch.iterdir())
        for locator, reason in ((InTar("t.tar", 512, 99), "bad_media"), (InTar("t.tar", 2**63 - 1, 5), "bad_media")):
            with pytest.raises(RejectedError, match=reason), reader.as_file(locator):
                pass
    assert not list(scratch.iterdir())


def test_a_copy_of_an_archive_that_was_cut_is_a_reject(folder: Path, tmp_path: Path) -> None:
    path = put_tar(folder, "t.tar", [("a.mp4", bytes(3_000_000))])
    with path.open("r+b") as file:
        file.truncate(2_000_000)
    with Reader(Root(folder), scratch=tmp_path) as reader:
        for use in (reader.read, lambda place: reader.as_file(place).__enter__()):
            with pytest.raises(RejectedError, match="the archive has changed"):
                use(InTar("t.tar", 512, 3_000_000))


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
