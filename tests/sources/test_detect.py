from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import UsageError
from mimicit.sources import SOURCES, detect
from mimicit.sources.detect import _named
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from tests.factories.sources import base64_jpeg, jpeg, put, put_lines

TRIPLET = {"instruction": "What?", "answer": "This."}
TALK = {"id": 1, "conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]}


def add_all(root: Path) -> None:
    put_lines(root, "easy_vqa/manifest.jsonl", [TRIPLET])
    put(root, "easy_vqa/images/0.png", jpeg())
    put(root, "llava_instruct_150k.json", [TALK])
    put(root, "DC/DC_instructions.json", {"meta": {}, "data": {"DC_INS_1": TRIPLET}})
    put(root, "DC/DC.json", {"DC_IMG_1": base64_jpeg()})
    put(root, "DC/DC_train.json", {"DC_INS_1": []})
    put(root, "stamps/cat.png", jpeg())
    put(root, "stamps/cat.json", [TRIPLET])
    put(root, "notes.md", "# Notes")
    put(root, "package.json", {"name": "x", "version": "1"})
    put(root, "old_train.json", {"a": ["b"]})
    put(root, "empty.json", b"")
    put(root, "pictures.tar", b"\0" * 600)


def test_every_source_is_found_and_nothing_is_passed_over(tmp_path: Path) -> None:
    add_all(tmp_path)
    (tmp_path / "link.json").symlink_to("package.json")
    detection = detect(Root(tmp_path))
    assert [(spec.name, spec.format) for spec in detection.sources] == [
        ("dc", "mimicit"),
        ("easy_vqa", "manifest"),
        ("llava_instruct_150k", "llava"),
        ("stamps", "folder"),
    ]
    assert all(spec.why for spec in detection.sources)
    assert detection.unused == ("empty.json", "notes.md", "old_train.json", "package.json", "pictures.tar")
    assert detection.loose_media == 1  # the manifest's picture
    assert [path for path, _ in detection.skipped] == ["link.json"]


def test_the_result_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    add_all(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "elsewhere")
    assert detect(Root(tmp_path / "a")) == detect(Root(tmp_path / "b" / "elsewhere"))


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    put_lines(tmp_path, "manifest.jsonl", [TALK])
    put(tmp_path, "llava.json", [TRIPLET])
    put(tmp_path, "data.log", [TALK])
    found = {spec.files: spec.format for spec in detect(Root(tmp_path)).sources}
    assert found == {("manifest.jsonl",): "llava", ("llava.json",): "manifest", ("data.log",): "llava"}


def test_a_named_format_takes_every_file_that_could_be_it(tmp_path: Path) -> None:
    put_lines(tmp_path, "odd.jsonl", [{"question": "Q"}])
    put(tmp_path, "odd.csv", "a,b\n1,2\n")
    put(tmp_path, "talk.txt", '{"conversations": []}\n')
    put(tmp_path, "settings.json", {"a": {"b": 1}})
    manifest = detect(Root(tmp_path), format="manifest")
    assert {spec.files for spec in manifest.sources} == {("odd.jsonl",), ("odd.csv",), ("settings.json",)}
    llava = detect(Root(tmp_path), format="llava")
    assert {spec.files for spec in llava.sources} == {("odd.jsonl",), ("talk.txt",), ("settings.json",)}
    assert llava.unused == ("odd.csv",)
    assert {spec.format for spec in (*manifest.sources, *llava.sources)} == {"manifest", "llava"}


def test_an_unknown_format_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--format.*alpaca, .*manifest, .*mimicit"):
        detect(Root(tmp_path), format="coco")


def test_an_empty_folder_has_no_sources(tmp_path: Path) -> None:
    assert detect(Root(tmp_path)).sources == ()


def names(*paths: str) -> list[str]:
    return [spec.name for spec in _named([SourceSpec(name=p, format="f", files=(p,), why="") for p in paths])]


def test_names_take_as_many_folders_as_they_need() -> None:
    assert names("a/train", "b/train", "test") == ["a-train", "b-train", "test"]
    assert names("x/a/train", "y/a/train", "b/train") == ["x-a-train", "y-a-train", "b-train"]
    assert names("Großes Bild.v2", "..") == ["gro-es-bild-v2", "source"]
    assert len(names("x" * 300)[0]) == 80


def test_names_that_no_folder_tells_apart_get_a_hash() -> None:
    first, second = names("a/été", "a/àtà")
    assert first != second
    assert all(re.fullmatch(r"a--t-[0-9a-f]{8}", name) for name in (first, second))
    assert len(set(names("a b", "a-b", "a?b"))) == 3


path_text = st.text(st.sampled_from("ab-_/. É"), min_size=1, max_size=12)


@given(st.lists(path_text, max_size=6, unique=True))
def test_names_are_unique_slugs_whatever_the_paths(paths: list[str]) -> None:
    found = names(*paths)
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,80}", name) for name in found)


def test_the_registry_asks_the_most_telling_format_first() -> None:
    order = list(SOURCES)
    assert order.index("shards") < order.index("webdataset")
    assert order.index("mimicit") < order.index("llava") < order.index("folder") < order.index("manifest")


def test_the_formats_and_their_order_are_pinned() -> None:
    """``--format`` takes these names; a change is labelled CLI in the changelog."""
    assert list(SOURCES) == [
        "shards", "obelics", "mmc4", "webdataset", "mimicit", "samples", "datasets", "llava", "folder", "vqav2",
        "question-answers", "coco-captions", "minigpt4", "captions", "video-chatgpt", "videochat2", "alpaca",
        "manifest", "imagefolder",
    ]  # fmt: skip
