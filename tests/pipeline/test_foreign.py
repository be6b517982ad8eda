"""Shards that others made: indexed where they lie, never touched, loaded like our own."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mimicit.errors import BuildError, ChangedShardError, ShardError, SourceError, UsageError
from mimicit.exporting import export_shards
from mimicit.inspecting.summary import summarise
from mimicit.loading import load
from mimicit.pipeline.foreign import index_folder
from mimicit.schema import validate
from mimicit.shards.folders import held_folder
from mimicit.shards.verify import verify_folder
from tests.factories.media import encoded, scene
from tests.factories.raw import hashes, picture
from tests.factories.shards import picture_sample, write_shards
from tests.factories.tars import put_tar

TALK = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "Where?"},
    {"from": "gpt", "value": "On a mat."},
]


def files(name: str, number: int, text: str | None = "a cat", row: Any = None) -> list[tuple[str, Any]]:
    """What img2dataset writes for one picture."""
    found: list[tuple[str, Any]] = [(f"{name}.jpg", picture(number))]
    if text is not None:
        found.append((f"{name}.txt", text))
    return found if row is None else [*found, (f"{name}.json", row)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    members = [entry for n in range(5) for entry in files(f"0000{n}", n, f"picture {n}", {"url": f"http://x/{n}"})]
    put_tar(tmp_path, "00000.tar", members)
    qa = {"instruction": "What is it?", "answer": "A dog.", "licence": "by"}
    members = [*files("a/00010", 10, None, qa), *files("a/00011", 11, None, {"conversations": TALK})]
    put_tar(tmp_path, "part-b.tar", members)
    return tmp_path


def test_samples_are_loaded_where_they_lie(folder: Path) -> None:
    before = hashes(folder)
    report = index_folder(folder)
    assert (report.samples, report.shards, report.rejected) == (7, 2, {})
    samples = load(folder)
    assert {name: sum for name, sum in hashes(folder).items() if name.endswith(".tar")} == before
    assert [samples.store.key(row) for row in range(7)] == [*(f"0000{n}" for n in range(5)), "a/00010", "a/00011"]
    first = samples[0]
    assert (first.id, first.query.answer, first.meta["url"]) == ("00000.tar/00000", "picture 0", "http://x/0")
    assert first.query.instruction  # of the fixed pool, as for any caption
    assert [media.data for media in first.media] == [(picture(0),)]
    assert (first.media[0].width, first.media[0].height, first.media[0].origin) == (48, 32, "00000.tar#00000.jpg")
    asked = samples.by_key("a/00010")
    assert (asked.query.instruction, asked.query.answer, asked.meta) == ("What is it?", "A dog.", {"licence": "by"})
    talk = samples.by_key("a/00011")
    assert [(turn.role, turn.relation, turn.media, turn.answer) for turn in talk.triplets] == [
        ("context", "conversation", (0,), "A cat."),
        ("query", None, (), "On a mat."),
    ]


def test_an_indexed_folder_is_a_finished_folder(folder: Path) -> None:
    index_folder(folder)
    assert list(verify_folder(folder)) == []
    summary = summarise(folder)
    assert (summary.samples, summary.shards, summary.media["image"]) == (7, 2, 7)
    manifest = load(folder).manifest
    assert manifest["layout"] == "foreign"
    assert manifest["totals"]["triplets"] == 8 and manifest["totals"]["relations"] == {"conversation": 1}
    assert [source["in"] - source["out"] - source["merged"] for source in manifest["sources"]] == [0]
    first = hashes(folder)
    index_folder(folder)
    assert hashes(folder) == first


def test_what_cannot_be_loaded_is_listed(folder: Path) -> None:
    gif = encoded(scene(), "GIF")
    put_tar(
        folder,
        "z.tar",
        [
            ("00.jpg", b"\xff\xd8\xff broken"), ("00.txt", "broken"),
            ("01.gif", gif), ("01.txt", "moving"),
            ("02.txt", "no picture"),
            *files("03", 3), ("99.jpg", picture(9)), *files("03", 4),
            ("04.mp4", b"clip"), ("04.txt", "a clip"),
        ],
    )  # fmt: skip
    report = index_folder(folder)
    assert report.samples == 9  # the name 03 comes twice, whole each time
    assert report.rejected["unsupported_media"] >= 1
    rejects = pq.read_table(folder / "rejects.parquet").to_pylist()
    for reject in rejects:
        validate("reject", reject)
    assert {reject["id"] for reject in rejects} >= {f"z.tar/{name}" for name in ("00", "01", "02", "04", "99")}
    assert list(verify_folder(folder)) == []
    assert [load(folder).by_key("03").query.answer] == ["a cat"]


def test_a_changed_or_damaged_tar_is_refused_by_name(folder: Path) -> None:
    index_folder(folder)
    path = folder / "00000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1024])
    with pytest.raises(ChangedShardError, match=r"00000\.tar: its size"):
        load(folder)[0]
    assert [finding.file for finding in verify_folder(folder)] == ["00000.tar"]
    path.write_bytes(whole[:700])
    with pytest.raises(SourceError, match=r"00000\.tar"):
        index_folder(folder)
    with pytest.raises(ShardError, match="no manifest"):  # neither the old index nor half a new one
        load(folder)


@pytest.mark.parametrize("kind", ["none", "no-tar", "no-sample", "bad-name"])
def test_folders_that_cannot_be_indexed(tmp_path: Path, kind: str) -> None:
    if kind == "no-sample":
        put_tar(tmp_path, "a.tar", [("a.cls", "1")])
    elif kind == "bad-name":
        put_tar(tmp_path, "a b.tar", files("0", 0))
    with pytest.raises(ShardError, match=r"no such folder|no \.tar|no sample|rename"):
        index_folder(tmp_path / "nothing" if kind == "none" else tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_our_own_folders_are_left_alone(tmp_path: Path) -> None:
    write_shards(tmp_path / "out", [picture_sample(0, [picture(0)])])
    before = hashes(tmp_path / "out")
    with pytest.raises(UsageError, match="load it as it is"):
        index_folder(tmp_path / "out")
    assert hashes(tmp_path / "out") == before


def test_hard_links_and_other_odd_members_do_no_harm(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "odd.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (("0.jpg", picture(1)), ("0.txt", b"one")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "0.jpg"
        archive.addfile(link)
        outside = tarfile.TarInfo("../2.jpg")
        archive.addfile(outside)
    assert index_folder(tmp_path).samples == 1
    assert json.loads((tmp_path / "manifest.json").read_bytes())["totals"]["rejects"] >= 2


def test_a_folder_that_another_process_indexes_is_left_to_it(tmp_path: Path) -> None:
    """The second would move files away that the first is writing."""
    put_tar(tmp_path, "00000.tar", files("000000000", 0))
    with held_folder(tmp_path, "mimicit index"), pytest.raises(BuildError, match=f"{tmp_path}: another mimicit index"):
        index_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.tar"]


def test_a_folder_on_a_file_system_without_locks_is_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    put_tar(tmp_path, "00000.tar", files("000000000", 0))
    assert index_folder(tmp_path).samples == 1
    with pytest.raises(BuildError, match=f"{tmp_path}: its file system has no locks"), held_folder(tmp_path, "build"):
        pass


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_is_cut_is_a_reject(tmp_path: Path, format: str) -> None:
    whole = encoded(scene(), format)
    put_tar(tmp_path, "00000.tar", [("0.jpg", whole), ("0.txt", b"whole"), ("1.jpg", whole[:-30]), ("1.txt", b"cut")])
    assert index_folder(tmp_path).rejected == {"truncated_image": 1}
    assert [sample.query.answer for sample in load(tmp_path)] == ["whole"]


def test_a_picture_before_the_clip_of_a_phone_is_not_cut(tmp_path: Path) -> None:
    put_tar(tmp_path, "00000.tar", [("0.jpg", encoded(scene(), "JPEG") + b"\0ftyp\xff\xda\0"), ("0.txt", b"whole")])
    report = index_folder(tmp_path)
    assert (report.samples, report.rejected) == (1, {})


@pytest.mark.parametrize(
    ("put", "name"),
    [
        (lambda folder: (folder / "00001.tar").symlink_to("nothing"), "00001.tar"),
        (lambda folder: os.truncate(os.open(folder / "00001.tar", os.O_CREAT | os.O_WRONLY), 1 << 40), "00001.tar"),
        (lambda folder: (folder / "rejects.parquet").mkdir(), "rejects.parquet"),
    ],
)
def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path, put: Any, name: str) -> None:
    put_tar(tmp_path, "00000.tar", files("000000000", 0))
    put(tmp_path)
    with pytest.raises(ShardError, match=f"{tmp_path}/{name}: .*index the folder again"):
        index_folder(tmp_path)


def test_an_indexed_folder_can_be_exported(tmp_path: Path) -> None:
    """Its keys are those that others gave, not those that follow from source and id."""
    folder = tmp_path / "tars"
    folder.mkdir()
    put_tar(folder, "00000.tar", [part for number in range(3) for part in files(f"{number:09d}", number)])
    index_folder(folder)
    report = export_shards(folder, tmp_path / "exported", "llava")
    assert (report.samples, report.records, report.media) == (3, 3, 3)
