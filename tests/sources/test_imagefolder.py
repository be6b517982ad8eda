"""Folders named for classes: only where they are asked for, each picture once, with its folder as the answer."""

from __future__ import annotations

from pathlib import Path

from mimicit.inspecting.summary import iterate_samples
from mimicit.pipeline import build_shards
from mimicit.pipeline.mixture import build_config
from mimicit.sources import detect
from mimicit.sources.files.root import Root
from tests.factories.engines import InProcess
from tests.factories.raw import picture


def put(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))
    return folder


def test_names_of_folders_are_answers(tmp_path: Path) -> None:
    put(tmp_path / "raw", "train/cat/1.jpg", "train/cat/2.jpg", "train/sea lion/1.jpg", "test/cat/3.jpg", "cover.jpg")
    config = build_config({"format": "imagefolder", "context": "none"})
    build_shards(tmp_path / "raw", tmp_path / "out", config, engine=InProcess())
    found = {sample.id: (sample.source, sample.query.answer) for _, sample in iterate_samples(tmp_path / "out")}
    assert found == {
        "train/cat/1.jpg": ("train", "cat"),
        "train/cat/2.jpg": ("train", "cat"),
        "train/sea lion/1.jpg": ("train", "sea lion"),
        "test/cat/3.jpg": ("test", "cat"),
    }


def test_no_folder_is_taken_for_one_unasked(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    assert detect(Root(tmp_path)).sources == ()
    (source,) = detect(Root(tmp_path), format="imagefolder").sources
    assert (source.name, source.files) == ("folder", ("cat/1.jpg", "dog/1.jpg"))
