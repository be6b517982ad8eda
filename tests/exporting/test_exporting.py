"""An export as a whole: absent or complete, the same bytes again, and what each format says of known samples."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mimicit.cli import main
from mimicit.errors import BuildError, CorruptShardError, ShardError, UsageError
from mimicit.exporting import EXPORTERS, export_shards
from mimicit.exporting.base import Written
from mimicit.inspecting.summary import iterate_samples
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.records import Sample
from mimicit.sources.shown_media import About, agree, media_of_triplets
from tests.factories import raw as make
from tests.factories.assembling import Part
from tests.factories.engines import InProcess
from tests.factories.exporting import MEDIA, built_again, exported, make_sample, meaning, write_shard

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # see test_exporting_roundtrip


def part(id: str, *media: int, relation: str | None = None) -> Part:
    return Part(id=id, media=media, instruction=f"{id}?", answer=f"{id}.", relation=relation)


def samples_of(*contexts: Iterable[Part]) -> list[Sample]:
    """One sample of each list of parts."""
    return [make_sample("s", list(parts), {}) for parts in contexts]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of one source of every kind."""
    folder = tmp_path_factory.mktemp("place")
    build_shards(make.make_raw(folder / "raw"), folder / "shards", BuildConfig(), engine=InProcess())
    return folder / "shards"


@pytest.mark.parametrize("to", EXPORTERS)
def test_the_same_shards_give_the_same_bytes_and_nothing_else(shards: Path, tmp_path: Path, to: str) -> None:
    reports = [export_shards(shards, tmp_path / name, to) for name in ("a", "b")]
    assert make.hashes(tmp_path / "a") == make.hashes(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert replace(reports[0], path="") == replace(reports[1], path="")
    assert reports[0].samples == 41


def test_media_bytes_are_those_of_the_shards_each_once_per_source(shards: Path, tmp_path: Path) -> None:
    report = export_shards(shards, tmp_path / "out", "files")
    stored = {
        (sample.source, data)
        for _, sample in iterate_samples(shards)
        for medium in sample.media
        for data in medium.data
    }
    found = [(path.parts[-3], path.read_bytes()) for path in (tmp_path / "out").glob("*/media/*")]
    assert len(found) == len(stored) == report.media
    assert set(found) == stored


@pytest.mark.parametrize("to", ["files", "mimicit"])
def test_what_was_published_comes_back(shards: Path, tmp_path: Path, to: str) -> None:
    export_shards(shards, tmp_path / "out", to)
    found, manifest = built_again(tmp_path / "out", tmp_path / "again", context="related")
    before = {sample.key: said(sample, to) for _, sample in iterate_samples(shards)}
    assert {sample.key: said(sample, to) for sample in found} == before
    assert [source["name"] for source in manifest["sources"]] == ["la", "llava_instruct", "own", "photos"]
    merged = {source["name"]: source["merged"] for source in manifest["sources"]}
    assert merged == {"la": 1, "llava_instruct": 0, "own": 0, "photos": 0}


def said(sample: Sample, to: str) -> dict[str, Any]:
    """The meaning of a sample; MIMIC-IT and the importer of frames reckon times of their own."""
    value = meaning(sample)
    for medium in value["media"]:
        medium.pop("duration_s", None)
        if to == "mimicit":
            medium.pop("timestamps_s", None)
            value["meta"] = {}
    return value


def test_conversations_of_llava_come_back_as_records(shards: Path, tmp_path: Path) -> None:
    report = export_shards(shards, tmp_path / "out", "llava")
    records = json.loads((tmp_path / "out" / "llava_instruct" / "llava.json").read_text())
    assert [record["id"] for record in records] == [f"{number:012d}" for number in range(4)] + ["7"]
    assert records[0]["conversations"][0] == {"from": "human", "value": "<image>\nQuestion 0.0?"}
    assert [turn["value"] for turn in records[0]["conversations"][2:]] == [
        "Question 0.1?", "Answer 0.1.", "Question 0.2?", "Answer 0.2.",
    ]  # fmt: skip
    # Drawn at random beside pictures, and still known to show none.
    assert records[-1] == {
        "id": "7",
        "conversations": [{"from": "human", "value": "Say hello."}, {"from": "gpt", "value": "Hello."}],
    }
    assert report.lost["triplets that are context alone"] == 1
    assert report.lost["context triplets"] > 0


def test_what_mimicit_gives_is_what_was_published(shards: Path, tmp_path: Path) -> None:
    export_shards(shards, tmp_path / "out", "mimicit")
    folder = tmp_path / "out" / "la"
    data = json.loads((folder / "la_instructions.json").read_text())["data"]
    assert data["LA_INS_000001"]["rel_ins_ids"] == ["LA_INS_000003", "LA_INS_000002"]  # as la_train.json says
    assert data["LA_INS_000000"]["rel_ins_ids"] == []
    train = json.loads((folder / "la_train.json").read_text())
    assert list(train) == [f"LA_INS_{number:06d}" for number in range(1, 6)]
    pictures = json.loads((folder / "la.json").read_text())
    assert {base64.b64decode(text) for text in pictures.values()} == {make.picture(200 + n) for n in range(6)}
    assert data["LA_INS_000003"]["image_ids"][0] in pictures
    clip = json.loads((tmp_path / "out" / "photos" / "photos_instructions.json").read_text())["data"]["photos/c.mp4"]
    assert [id[:7] for id in clip["image_ids"]] == ["DC_IMG_"] * 8


def test_the_table_is_read_in_small_groups(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimicit.exporting.datasets._ROW_GROUP_ROWS", 10)
    monkeypatch.setattr("mimicit.exporting.datasets._FILE_BYTES", 1)
    export_shards(shards, tmp_path / "out", "datasets")
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == [f"train-{part:05d}-of-00005.parquet" for part in range(5)]
    table = pq.read_table(tmp_path / "out" / "data")
    assert table.column("id").to_pylist() == [sample.id for _, sample in iterate_samples(shards)]
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.schema.names


def test_documents_are_rows_of_files_and_lines_of_mmc4(tmp_path: Path) -> None:
    parts = [
        Part(id=id, media=media, instruction="", answer=text, relation="document")
        for id, media, text in (("d#0", (0, 4), "first"), ("d#1", (), "second"), ("d", (1,), "third"))
    ]
    document = make_sample("s", parts, {"url": "http://a.b/c"})
    folder, _ = exported([document], "files", tmp_path)
    (row,) = rows_of(folder / "s" / "manifest.jsonl")
    names = {key: [f"media/{digest}.jpg" for digest in medium.sha256] for key, medium in MEDIA.items()}
    clip = {"frames": names[4], "timestamps_s": [0.0, 1.0], "duration_s": 2.5}
    assert row == {
        "id": "d",
        "document": [
            {"media": [names[0][0], clip]}, {"text": "first"}, {"text": "second"},
            {"media": [names[1][0]]}, {"text": "third"},
        ],
        "meta": {"url": "http://a.b/c"},
    }  # fmt: skip
    place = tmp_path / "mmc4"
    place.mkdir()
    folder, written = exported([document], "mmc4", place)
    (line,) = rows_of(folder / "s" / "s.jsonl")
    assert (line["url"], line["text_list"]) == ("http://a.b/c", ["first", "second", "third"])
    assert [image["matched_text_index"] for image in line["image_info"]] == [0, 0, 0, 2]
    assert line["similarity_matrix"][3] == [0.0, 0.0, 1.0]
    assert written.lost == {"clips": 1}


@pytest.mark.parametrize("to", ["llava", "mimicit"])
def test_a_format_without_documents_says_so(tmp_path: Path, to: str) -> None:
    document = make_sample("s", [Part(id="d", media=(0,), instruction="", answer="x", relation="document")], {})
    shard = write_shard(tmp_path / "shard-000.tar", [document])
    with pytest.raises(BuildError, match=rf"the format {to} can hold none of its 1 samples"):
        export_shards(shard, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()
    _, written = exported([document, *samples_of([part("a", 0)])], to, tmp_path)
    assert written.lost == {"documents": 1}
    assert written.records == 1


def test_a_clip_and_a_picture_keep_their_order_in_one_field(tmp_path: Path) -> None:
    folder, _ = exported(samples_of([part("a", 4, 0)]), "llava", tmp_path)
    (record,) = json.loads((folder / "s" / "llava.json").read_text())
    assert [type(value) for value in record["image"]] == [dict, str]
    assert record["conversations"][0]["value"] == "<image>\n<image>\na?"


def test_a_picture_is_given_back_to_the_triplets_about_it(tmp_path: Path) -> None:
    """``b`` is shown without a picture everywhere, and follows the same one; ``c`` follows two; ``d`` follows none."""
    samples = samples_of(
        [part("a", 0, relation="related"), part("b", 0, relation="related"), part("q", 0)],
        [part("a", 0, relation="related"), part("c", relation="related"), part("r", 1)],
        [part("r", 1, relation="related"), part("c", relation="related"), part("t", 0)],
        [part("d", relation="related"), part("u", 2)],
        [part("u", 2, relation="related"), part("d", relation="related"), part("v", 1)],
        [part("u", 2, relation="random"), part("w")],
    )
    folder, _ = exported(samples, "files", tmp_path)
    media = {row["id"]: len(row["media"]) for row in rows_of(folder / "s" / "manifest.jsonl")}
    assert media == {"a": 1, "b": 1, "q": 1, "c": 0, "r": 1, "t": 1, "d": 0, "u": 1, "v": 1, "w": 0}


def test_what_two_samples_tell_together() -> None:
    nothing: About[int] = About((), certain=True)
    shows, maybe, other = About((1,), certain=True), About((1,), certain=False), About((2,), certain=False)
    for left, right, together in [
        (shows, maybe, shows), (shows, nothing, shows), (nothing, maybe, nothing), (maybe, maybe, maybe),
        (maybe, other, nothing), (shows, other, shows),
    ]:  # fmt: skip
        assert agree(left, right) == agree(right, left) == together
    with pytest.raises(CorruptShardError):
        agree(shows, About((2,), certain=True))


def test_the_same_media_are_certain() -> None:
    (sample,) = samples_of([part("a", 0, relation="same_media"), part("b", 0, relation="same_media"), part("q", 0)])
    assert list(media_of_triplets(sample)) == [About((0,), certain=True)] * 3


@pytest.mark.parametrize(
    ("samples", "fault"),
    [
        (samples_of([part("a", 0)], [part("b")], [part("a", 0)]), "'a' is the query of two samples"),
        (samples_of([part("a", 0)], [part("a", 1, relation="related"), part("b")]), "'a' shows other media"),
        (
            samples_of([part("a")], [replace(part("a", relation="related"), answer="no"), part("b")]),
            "'a' says something else",
        ),
        (
            samples_of(
                [part("a", relation="conversation"), part("b")], [part("b", relation="conversation"), part("a")]
            ),
            "2 turns of conversations follow each other in a circle",
        ),
    ],
)
def test_shards_that_contradict_themselves_are_refused(tmp_path: Path, samples: list[Sample], fault: str) -> None:
    shard = write_shard(tmp_path / "shard-000.tar", samples)
    with pytest.raises(CorruptShardError, match=fault):
        export_shards(shard, tmp_path / "out", "llava")
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000.tar"]


def test_a_medium_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (sample,) = samples_of([part("a", 0)])
    shard = write_shard(tmp_path / "shard-000.tar", [replace(sample, triplets=(replace(sample.query, media=(7,)),))])
    with pytest.raises(CorruptShardError, match=r"its triplets show media \[7\]"):
        export_shards(shard, tmp_path / "out", "files")


@pytest.mark.parametrize("to", EXPORTERS)
def test_bytes_that_are_not_what_their_name_says_are_refused(tmp_path: Path, to: str) -> None:
    (sample,) = samples_of([part("a", 0)])
    (medium,) = sample.media
    shard = write_shard(tmp_path / "shard-000.tar", [replace(sample, media=(replace(medium, data=(b"other",)),))])
    with pytest.raises(CorruptShardError, match="do not match their sha256"):
        export_shards(shard, tmp_path / "out", to)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000.tar"]


def test_a_folder_in_use_is_left_alone(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_shards(shards, tmp_path / "out", "files")  # an empty folder is as good as none
    before = make.hashes(tmp_path)
    with pytest.raises(BuildError, match="out: is not empty"):
        export_shards(shards, tmp_path / "out", "files")
    with pytest.raises(BuildError, match="is no folder"):
        export_shards(shards, tmp_path / "out" / "own" / "manifest.jsonl", "files")
    assert make.hashes(tmp_path) == before


def test_an_export_that_fails_or_was_killed_leaves_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind = tmp_path / ".out.tmp" / "folder" / "own"
    left_behind.mkdir(parents=True)
    (left_behind / "manifest.jsonl").write_text("half a li")

    def full(samples: Iterator[Sample], folder: Path, scratch: Path) -> Written:
        (folder / "a").write_text(next(samples).id)
        raise OSError(28, "No space left on device", str(folder / "a"))

    with monkeypatch.context() as patch:
        patch.setitem(EXPORTERS, "files", full)
        with pytest.raises(BuildError, match="No space left on device"):
            export_shards(shards, tmp_path / "out", "files")
    assert list(tmp_path.iterdir()) == []
    shutil.copytree(shards, tmp_path / "shards")
    export_shards(tmp_path / "shards", tmp_path / "out", "files")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "shards"]


def test_two_exports_to_one_folder_do_not_meet(shards: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.tmp").mkdir()
    descriptor = os.open(tmp_path / ".out.tmp", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="another mimicit export is writing there"):
            export_shards(shards, tmp_path / "out", "files")
    finally:
        os.close(descriptor)
    export_shards(shards, tmp_path / "out", "files")


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no format 'coco'; there are: datasets, files"):
        export_shards(tmp_path, tmp_path / "out", "coco")
    with pytest.raises(ShardError, match="no such file"):
        export_shards(tmp_path / "nowhere.tar", tmp_path / "out", "files")
    assert list(tmp_path.iterdir()) == []


def test_the_command(shards: Path, tmp_path: Path) -> None:
    (to,) = [option for option in main.commands["export"].params if option.name == "to"]
    assert sorted({*to.type.choices} - {"hub"}) == list(EXPORTERS)  # type: ignore[attr-defined]
    arguments = ["export", str(shards), "--out", str(tmp_path / "out"), "--to", "llava"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "41 samples as " in result.stdout
    assert "not in llava: triplets that are context alone (1)" in result.stdout
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    assert "is not empty" in again.stderr
    value = json.loads(CliRunner().invoke(main, [*arguments[:3], str(tmp_path / "b"), "--to", "mmc4", "--json"]).stdout)
    assert (value["samples"], value["records"]) == (41, 41)
