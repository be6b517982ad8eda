"""The build as a whole: complete, deterministic, resumable, readable by everyone."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from mimicit.errors import BuildError, ChangedInputError, UnfinishedError
from mimicit.loading import load
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.prompt import IMAGE, render
from mimicit.schema import validate
from mimicit.shards.manifest import read_manifest
from mimicit.shards.verify import verify_folder
from tests.factories import raw as make
from tests.factories.builds import build
from tests.factories.engines import InProcess
from tests.factories.sources import put


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make.make_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def shards(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    build_shards(raw, out, SMALL, engine=LocalEngine(2))
    return out


SMALL = BuildConfig(shard_bytes=64 * 1024)  # several shards from little data


def test_the_folder_is_complete_sound_and_balanced(shards: Path) -> None:
    manifest = read_manifest(shards)
    names = {"index.parquet", "media.parquet", "rejects.parquet", "manifest.json", "README.md", "contact-sheet.jpg"}
    assert {path.name for path in shards.iterdir()} == names | {shard["name"] for shard in manifest["shards"]}
    assert list(verify_folder(shards)) == []
    assert len(manifest["shards"]) > 1
    table = {source["name"]: source for source in manifest["sources"]}
    assert {name: (row["format"], row["in"], row["out"], row["merged"]) for name, row in table.items()} == {
        "own": ("manifest", 18, 18, 0),
        "llava_instruct": ("llava", 13, 13, 0),
        "la": ("mimicit", 6, 5, 1),
        "photos": ("folder", 5, 5, 0),
    }
    for row in manifest["sources"]:
        assert row["in"] == row["out"] + row["merged"] + sum(row["rejected"].values())
    assert pq.read_table(shards / "rejects.parquet").num_rows == 0


def test_every_sample_validates_and_its_prompt_fits_its_media(shards: Path) -> None:
    samples = load(shards)
    assert len(samples) == 41
    for sample in samples:
        assert render(sample).count(IMAGE) == len(sample.media)
        assert len(sample.context) <= 2
    for shard in sorted(shards.glob("shard-*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
                if member.name.endswith(".json"):
                    validate("sample", orjson.loads(archive.extractfile(member).read()))  # type: ignore[union-attr]


def test_context_follows_the_sources(shards: Path) -> None:
    by_id = {(sample.source, sample.id): sample for sample in load(shards)}
    talk = by_id["llava_instruct", "000000000001_2"]
    assert [(t.id, t.relation, t.media) for t in talk.triplets] == [
        ("000000000001_0", "conversation", (0,)),
        ("000000000001_1", "conversation", ()),
        ("000000000001_2", None, ()),
    ]
    related = by_id["la", "LA_INS_000001"]  # the training list turns the published order around
    assert [(t.id, t.relation) for t in related.context] == [("LA_INS_000002", "related"), ("LA_INS_000003", "related")]
    assert ("la", "LA_INS_000000") not in by_id  # not in the training list: context only
    question = by_id["own", "own-0-0"]
    assert [t.relation for t in question.context] == ["same_media", "same_media"]
    assert [t.media for t in question.triplets] == [(0,), (), ()]
    film = by_id["photos", "photos/c.mp4"].media[-1]
    assert film.kind == "video"
    assert film.timestamps_s is not None
    assert len(film.files) == len(film.timestamps_s) == 8
    assert list(film.timestamps_s) == sorted(set(film.timestamps_s))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_stock_webdataset_reads_every_sample(shards: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="comes with the extra 'train'")
    urls = [str(path) for path in sorted(shards.glob("shard-*.tar"))]
    seen = {}
    for item in wds.WebDataset(urls, shardshuffle=False):
        value = orjson.loads(item["json"])
        files = [name for media in value["media"] for name in media["files"]]
        assert sorted(name for name in item if name != "json" and not name.startswith("__")) == sorted(files)
        seen[item["__key__"]] = value["id"]
    gc.collect()
    assert seen == {sample.key: sample.id for sample in load(shards)}


@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_do_not_depend_on_workers_or_runs(raw: Path, shards: Path, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "again"
    build_shards(raw, out, SMALL, engine=LocalEngine(workers))
    assert make.hashes(out) == make.hashes(shards)


def test_a_rerun_of_a_finished_build_does_nothing(raw: Path, shards: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert build_shards(raw, shards, SMALL, engine=InProcess()).was_finished
    assert {path: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def test_changes_are_refused_or_overwritten_never_mixed(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw)
    build_shards(raw, out, SMALL, engine=InProcess())
    with pytest.raises(ChangedInputError, match="another value of seed"):
        build_shards(raw, out, BuildConfig(shard_bytes=64 * 1024, seed=1), engine=InProcess())
    make.add_llava(raw)
    with pytest.raises(ChangedInputError, match="another input"):
        build_shards(raw, out, SMALL, engine=InProcess())
    assert list(verify_folder(out)) == []
    build_shards(raw, out, SMALL, engine=InProcess(), overwrite=True)
    fresh = tmp_path / "fresh"
    build_shards(raw, fresh, SMALL, engine=InProcess())
    assert make.hashes(out) == make.hashes(fresh)


def test_a_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    make.add_manifest(tmp_path / "raw")
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(BuildError, match=r"thesis\.txt"):
        build_shards(tmp_path / "raw", out, SMALL, engine=InProcess(), overwrite=True)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_an_output_folder_inside_the_input_is_not_read(tmp_path: Path) -> None:
    make.add_manifest(tmp_path)
    out = tmp_path / "shards"
    first = build_shards(tmp_path, out, SMALL, engine=InProcess()).manifest
    assert build_shards(tmp_path, out, SMALL, engine=InProcess()).was_finished
    assert [source["name"] for source in first["sources"]] == ["own"]


def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make.make_raw(raw)
    make.add_manifest(raw, "more", pictures=80, questions=2)
    whole = tmp_path / "whole"
    arguments = ["--src", str(raw), "--shard-samples", "20", "--workers", "2"]
    seconds = _build(whole, arguments)
    out = tmp_path / "killed"
    for kill, share in enumerate((0.5, 0.8)):  # the first part of it are imports
        process = _start(out, arguments)
        time.sleep(share * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = (out / "manifest.json").exists()
        for path in out.glob("shard-*.tar"):
            assert path.read_bytes() == (whole / path.name).read_bytes(), "a partial file under a final name"
        if finished:
            assert make.hashes_without_work(out) == make.hashes(whole)
            out = tmp_path / f"killed-{kill}"
    if (out / ".mimicit-work").is_dir() and not (out / "manifest.json").exists():
        with pytest.raises(UnfinishedError, match="run the same mimicit build again"):
            read_manifest(out)
    _build(out, arguments)
    assert make.hashes(out) == make.hashes(whole)


def _start(out: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mimicit", "build", "--out", str(out), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _build(out: Path, arguments: list[str]) -> float:
    started = time.monotonic()
    assert _start(out, arguments).wait() == 0
    return time.monotonic() - started


def test_two_builds_at_once_are_kept_apart(tmp_path: Path) -> None:
    make.add_manifest(tmp_path / "raw")
    out = tmp_path / "out"
    out.mkdir()
    descriptor = os.open(out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(BuildError, match="another mimicit build is writing there"):
        build_shards(tmp_path / "raw", out, SMALL, engine=InProcess())
    os.close(descriptor)
    assert not build_shards(tmp_path / "raw", out, SMALL, engine=InProcess()).was_finished


def test_the_manifest_names_what_shaped_the_bytes(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    assert manifest["config"]["shots"] == 2
    assert manifest["config"]["media"]["size"] == 336
    assert not {"workers", "engine"} & set(manifest["config"])
    assert set(manifest["libraries"]) >= {"pillow", "pyarrow"}


def test_a_document_is_no_context(tmp_path: Path) -> None:
    put(tmp_path, "raw/0.jpg", make.picture(0))
    pages = [{"id": f"page{n}", "document": [{"media": "0.jpg"}, {"text": f"Text {n}."}]} for n in range(4)]
    asked = [
        {"id": f"{n}", "media": "0.jpg", "instruction": f"{n}?", "answer": f"{n}", "related": ["page0", "page1"]}
        for n in range(4)
    ]
    put(tmp_path, "raw/manifest.jsonl", "\n".join(map(json.dumps, [*pages, *asked])))
    build(tmp_path / "raw", tmp_path / "out", BuildConfig(shots=2))
    context = {sample.id: [triplet.id for triplet in sample.context] for sample in load(tmp_path / "out")}
    assert all(len(context[f"{n}"]) == 2 and not any("page" in id for id in context[f"{n}"]) for n in range(4))
