"""How paths in records become files: each way, in its order, and never a file that is not meant."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError
from mimicit.sources.files.finding import PICTURE_EXTENSIONS, find_file
from mimicit.sources.files.root import Root
from mimicit.sources.files.walking import FileNames
from mimicit.sources.items import Row
from mimicit.sources.records.column_names import columns_of
from mimicit.sources.records.row_media import MediaFinder
from tests.factories.sources import put

FILES = (
    *("ann/own.jpg", "top.jpg", "images/usual.jpg", "data/coco/train2017/1.jpg", "a/twin.jpg", "b/twin.jpg"),
    *("clips/run.mp4", "clips/two.mp4", "clips/two.webm", "odd/my pic é.jpg", "odd/100%.jpg", "x/a/same.jpg"),
    *("y/a/same.jpg", "y/b/same.jpg"),
)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    for path in FILES:
        put(tmp_path / "raw", path, b"x")
    return Root(tmp_path / "raw", media_roots={"s3://bucket/set": "data", "old/": "a", "C:\\pics": "b"})


@pytest.mark.parametrize(
    ("written", "found", "way"),
    [
        ("own.jpg", "ann/own.jpg", "beside"),
        ("../top.jpg", "top.jpg", "beside"),
        ("top.jpg", "top.jpg", "src"),
        ("ann/own.jpg", "ann/own.jpg", "src"),
        ("usual.jpg", "images/usual.jpg", "usual_folder"),
        ("s3://bucket/set/coco/train2017/1.jpg", "data/coco/train2017/1.jpg", "media_root"),
        ("old/twin.jpg", "a/twin.jpg", "media_root"),
        ("C:\\pics\\twin.jpg", "b/twin.jpg", "media_root"),
        ("/export/share/coco/train2017/1.jpg", "data/coco/train2017/1.jpg", "suffix"),
        ("D:\\x\\train2017\\1.jpg", "data/coco/train2017/1.jpg", "suffix"),
        ("file:///x/train2017/1.jpg", "data/coco/train2017/1.jpg", "suffix"),
        ("http://images.cocodataset.org/train2017/1.jpg?x=1", "data/coco/train2017/1.jpg", "suffix"),
        ("elsewhere/../train2017/1.jpg", "data/coco/train2017/1.jpg", "suffix"),
        ("mscoco/val2014/1.jpg", "data/coco/train2017/1.jpg", "name"),
        ("1.jpg", "data/coco/train2017/1.jpg", "name"),
        ("x/a/same.jpg", "x/a/same.jpg", "src"),
        ("/old/y/a/same.jpg", "y/a/same.jpg", "suffix"),
        ("clips/run.avi", "clips/run.mp4", "extension"),
        ("/data/clips/run.mkv", "clips/run.mp4", "extension"),
        ("ann/own", "ann/own.jpg", "extension"),
        ("/data/train2017/1", "data/coco/train2017/1.jpg", "extension"),
        ("odd/my%20pic%20%C3%A9.jpg", "odd/my pic é.jpg", "src"),
        ("odd/my pic e\u0301.jpg", "odd/my pic é.jpg", "src"),
        ("/x/my pic e\u0301.jpg", "odd/my pic é.jpg", "name"),
        ("odd\\100%.jpg", "odd/100%.jpg", "src"),
        (" top.jpg ", "top.jpg", "src"),
    ],
)
def test_every_way_finds_its_file(root: Root, written: str, found: str, way: str) -> None:
    assert find_file(root, written, beside="ann") == found
    assert root.found == {way: 1}


def test_an_absolute_path_in_the_folder_is_found_by_either_of_its_names(root: Root, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("raw")
    linked = Root(tmp_path / "link")
    for base in (tmp_path / "raw", tmp_path / "link"):
        assert find_file(linked, f"{base}/a/twin.jpg", beside="ann") == "a/twin.jpg"
    assert linked.found == {"absolute": 2}


@pytest.mark.parametrize(
    ("written", "reason", "words"),
    [
        ("twin.jpg", "ambiguous_path", "'a/twin.jpg' or 'b/twin.jpg'"),
        ("/x/c/twin.jpg", "ambiguous_path", "'a/twin.jpg' or 'b/twin.jpg'"),
        ("/z/a/b/../same.jpg", "ambiguous_path", "'x/a/same.jpg' or 'y/a/same.jpg'"),
        ("clips/two.avi", "ambiguous_path", "'clips/two.mp4' or 'clips/two.webm'"),
        ("a/same", "ambiguous_path", "'x/a/same.jpg' or 'y/a/same.jpg'"),
        ("old/own.jpg,old/top.jpg", "malformed", "names 2 files"),
        ("old/own.jpg | old/own.jpg top.jpg", "malformed", "names 3 files"),
        ("top.JPG", "missing_file", "'ann/top.JPG' and 'top.JPG'"),
        ("top.JPG", "missing_file", "the nearest name there is 'top.jpg'"),
        ("train2017/1.png", "missing_file", "the nearest name there is 'data/coco/train2017/1.jpg'"),
        ("clips/rum.mp4", "missing_file", "the nearest name there is 'clips/run.mp4'"),
        ("http://x.org/top.jpg", "missing_file", "is a URL; nothing is fetched"),
        ("http://[x", "missing_file", "is a URL"),
        ("/etc/passwd", "outside_root", "is absolute and outside"),
        ("../../top.jpg", "outside_root", "leads out of"),
        ("..%2F..%2Ftop.jpg", "outside_root", "leads out of"),
        ("val2014/1.jpg", "missing_file", "'data/coco/train2017/1.jpg' is called the same, as files of many sets are"),
        ("op.jpg", "missing_file", "no path there ends with 'op.jpg'"),
        ("", "malformed", "no file name"),
        ("zzzz", "missing_file", "write paths relative to it"),
    ],
)
def test_what_is_not_found_says_why(root: Root, written: str, reason: str, words: str) -> None:
    with pytest.raises(RejectedError) as caught:
        find_file(root, written, beside="ann")
    assert caught.value.reason == reason
    assert words in caught.value.detail
    assert not root.found


def test_a_file_that_cannot_be_opened_is_not_replaced_by_another(tmp_path: Path) -> None:
    put(tmp_path, "outside/1.jpg", b"x")
    put(tmp_path, "raw/b/1.jpg", b"x")
    (tmp_path / "raw" / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(RejectedError) as caught:
        find_file(Root(tmp_path / "raw"), "a/1.jpg", beside="")
    assert caught.value.reason == "outside_root"
    assert f"--follow-links --allow-root {tmp_path}/outside" in caught.value.detail


def test_hints_come_before_other_places_and_several_names_in_their_order(tmp_path: Path) -> None:
    for path in ("train/1.jpg", "val/1.jpg", "coco/images/train/2.jpg", "val/2.jpg", "plain/COCO_3.jpg", "plain/3.jpg"):
        put(tmp_path, path, b"x")
    root = Root(tmp_path)
    assert find_file(root, "1.jpg", beside="", hints=("train",)) == "train/1.jpg"
    assert find_file(root, "2.jpg", beside="", hints=("train",)) == "coco/images/train/2.jpg"
    assert find_file(root, ["COCO_3.jpg", "3.jpg"], beside="") == "plain/COCO_3.jpg"
    assert find_file(root, ["COCO_4.jpg", "3.jpg"], beside="") == "plain/3.jpg"


COCO_5 = "COCO_val2014_000000000005.jpg"


@pytest.mark.parametrize(
    ("there", "beside", "hints", "written", "found"),
    [
        (("pics/1.jpg", "other/test/9.jpg"), "", ("test",), "1.jpg", "pics/1.jpg"),
        (("pics/1.jpg", "other/test/9.jpg"), "ann", ("test",), "1.jpg", "pics/1.jpg"),
        ((f"pics/{COCO_5}", "old/val2014/6.jpg"), "", ("val2014",), COCO_5, f"pics/{COCO_5}"),
        (("pics/a.jpg", "x/images/b.jpg", "y/0/c.jpg"), "docs", ("0", "images"), "a.jpg", "pics/a.jpg"),
        (("own/test/9.jpg", "other/test/1.jpg"), "own", ("test",), "1.jpg", None),  # that of another set
        (("own/images/9.jpg", "other/1.jpg"), "own", ("test",), "1.jpg", None),
        (("flat/1.jpg", "b/train/2.jpg"), "", (), "x/train/1.jpg", "flat/1.jpg"),
        (("flat/1.jpg", "b/val/2.jpg", "b/imgs/2.jpg"), "", (), "/data/val/1.jpg", "flat/1.jpg"),
        (("flat/1.jpg", "b/imgs/2.jpg"), "ann", (), "imgs/1.jpg", "flat/1.jpg"),
        (("flat/1.jpg", "b/0/2.jpg"), "", (), "x/0/1.jpg", "flat/1.jpg"),
        (("flat/1.jpg", "b/x/train/2.jpg"), "", (), "x/train/1.jpg", None),
        (("flat/1.jpg", "train/2.jpg"), "", (), "x/train/1.jpg", None),
        (("flat/1.jpg", "ann/train/2.jpg"), "ann", (), "train/1.jpg", None),
        (("coco/val/1.jpg", "coco/train/2.jpg"), "coco/ann", (), "train/1.jpg", None),
        (("old/val2017/1.jpg", "coco/train2017/2.jpg"), "ann", (), "train2017/1.jpg", None),
    ],
)
def test_a_folder_that_a_record_does_not_clearly_name_does_not_hide_a_picture(
    tmp_path: Path, there: tuple[str, ...], beside: str, hints: tuple[str, ...], written: str, found: str | None
) -> None:
    for path in there:
        put(tmp_path, path, b"x")
    if found is not None:
        assert find_file(Root(tmp_path), written, beside=beside, hints=hints) == found
        return
    with pytest.raises(RejectedError, match="where others are") as caught:
        find_file(Root(tmp_path), written, beside=beside, hints=hints)
    assert caught.value.reason == "missing_file"


@pytest.mark.parametrize(
    ("there", "column", "value", "found"),
    [
        (("vg/VG_100K/5.jpg", "coco/train2017/000000000005.jpg"), "image_id", 5, None),
        (("imgs/12.jpg", "x/000000000012.png"), "image_id", "12", None),
        (("vg/12.jpg", "vg/000000000012.png"), "image_id", "12", None),
        (("vg/images/5.jpg", "images/000000000005.jpg"), "image_id", 5, "vg/images/5.jpg"),
        (("vg/000000000005.jpg", "x/5.jpg"), "image_id", 5, "vg/000000000005.jpg"),
        (("x/000000000005.jpg",), "image_id", "000000000005", "x/000000000005.jpg"),
        ((f"x/{COCO_5}",), "image_id", 5, f"x/{COCO_5}"),
        (("clips/v_7.mp4", "a/video7.mp4"), "video_id", 7, None),
        (("vg/v_7/0001.jpg", "vg/v_7/0002.jpg", "vg/video7/0001.jpg", "vg/video7/0002.jpg"), "video_id", 7, None),
        (("vg/v_7/0001.jpg", "vg/v_7/0002.jpg"), "video_id", 7, "vg/v_7"),
    ],
)
def test_an_id_means_no_file_if_its_spellings_lead_to_different_ones(
    tmp_path: Path, there: tuple[str, ...], column: str, value: object, found: str | None
) -> None:
    for path in there:
        put(tmp_path, path, b"x")
    fields = {column: value, "question": "Q?", "answer": "a"}
    media = MediaFinder(Root(tmp_path), "vg").of_row(Row("vg/x.jsonl:1", fields), fields, columns_of(fields))
    if found is not None:
        assert next(media).origin == found
        return
    with pytest.raises(RejectedError, match=" may be ") as caught:
        next(media)
    assert caught.value.reason == "ambiguous_path"


@pytest.mark.parametrize(
    ("written", "beside", "folder"),
    [
        ("images/2.jpg", "a", "a/images"),  # b has an images/2.jpg of its own
        ("2.jpg", "a", "a/images"),
        ("train/4.jpg", "", "train"),
        ("images/4.jpg", "", "images"),
        ("/data/coco/train/4.jpg", "a", "train"),
        ("https://example.com/train/val/4.jpg", "a", None),
        ("train/3.jpg", "a", None),
        ("4.jpg", "", None),
        ("/data/images/4.jpg", "a", None),  # every set has a folder of that name
        ("train/5.jpg", "", None),
        ("notes/6.jpg", "", None),
    ],
)
def test_a_picture_that_its_own_folder_lacks_is_not_another_one_of_its_name(
    tmp_path: Path, written: str, beside: str, folder: str | None
) -> None:
    places = ("a/images/1.jpg", "b/images/2.jpg", "train/3.jpg", "x/val/4.jpg", "images/0.jpg", "train/part/5.jpg")
    for path in (*places, "notes/notes.txt", "c/6.jpg"):
        put(tmp_path, path, b"x")
    root = Root(tmp_path)
    if folder is None:
        assert find_file(root, written, beside=beside).endswith(written[-5:])
        return
    with pytest.raises(RejectedError, match=f"is not in '{folder}', where others are; ") as caught:
        find_file(root, written, beside=beside)
    assert caught.value.reason == "missing_file"
    assert not root.found


def test_a_name_without_its_extension(tmp_path: Path) -> None:
    for path in ("p/1.png", "p/2.jpg", "p/2.png", "p/v1.5.jpg"):
        put(tmp_path, path, b"x")
    root = Root(tmp_path)
    for written, found in (("1", "p/1.png"), ("1.png", "p/1.png"), ("v1.5", "p/v1.5.jpg"), ("2.jpg", "p/2.jpg")):
        assert find_file(root, written, beside="q", extensions=PICTURE_EXTENSIONS) == found
    with pytest.raises(RejectedError, match=r"'p/2\.jpg' or 'p/2\.png'"):
        find_file(root, "2", beside="p", extensions=PICTURE_EXTENSIONS)


paths = st.lists(st.text("abé.", min_size=1, max_size=3).filter(lambda step: step.strip(".")), min_size=1, max_size=4)


@given(st.sets(paths.map("/".join), max_size=12), paths, st.randoms(use_true_random=False))
def test_names_answer_as_a_plain_comparison_would(files: set[str], steps: list[str], order: random.Random) -> None:
    shuffled = sorted(files)
    order.shuffle(shuffled)
    names = FileNames(shuffled)
    ending = names.ending_with(tuple(steps), 99)
    assert sorted(ending) == sorted(file for file in files if f"/{file}".endswith(f"/{'/'.join(steps)}"))
    assert ending == FileNames(sorted(files)).ending_with(tuple(steps), 99)
    assert names.nearest("/".join(steps)) in {None, *files}
