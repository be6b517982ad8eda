"""Raw data in the formats that hold pictures inside archives and tables: built, verified, and balanced."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mimicit.errors import SourceError
from mimicit.loading import load
from mimicit.media import MediaOptions
from mimicit.pipeline import BuildConfig, build_shards
from tests.factories import raw as make
from tests.factories.builds import build
from tests.factories.engines import InProcess
from tests.factories.exporting import meaning
from tests.factories.sources import base64_jpeg, put, put_lines
from tests.factories.tables import put_arrow, put_parquet
from tests.factories.tars import put_tar

# A build's worker leaves it to its end to close the files it has read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RELATED = BuildConfig(context="related", shots=2, shard_bytes=64 * 1024)


def picture(seed: int) -> dict[str, Any]:
    return {"bytes": make.picture(seed), "path": f"{seed}.jpg"}


def record_rejects(rejects: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {(r["reason"], r["locator"], r["id"]) for r in rejects if r["scope"] == "record"}


def test_webdataset(tmp_path: Path) -> None:
    files: list[tuple[str, Any]] = []
    for number in range(4):
        files += [(f"{number}.jpg", make.picture(number)), (f"{number}.txt", f"picture {number}")]
    files += [("broken.jpg", make.picture(9)[:300]), ("broken.txt", "half a picture")]
    files += [("blind.txt", "no picture"), ("mute.jpg", make.picture(8))]
    files += [("clip.mp4", b"\0\0\0\x18ftypisom"), ("clip.txt", "a clip")]
    put_tar(tmp_path, "raw/cats/00000.tar", files)
    put_tar(tmp_path, "raw/cats/00001.tar", files[:2])  # a name for the second time
    built = build(tmp_path / "raw", tmp_path / "out", RELATED)
    assert {name: (row["format"], row["in"], row["out"]) for name, row in built.sources.items()} == {
        "cats": ("webdataset", 9, 5)
    }
    assert record_rejects(built.rejects) == {
        ("truncated_image", "cats/00000.tar#broken", "00000.tar/broken"),
        ("missing_file", "cats/00000.tar#blind", "00000.tar/blind"),
        ("missing_sidecar", "cats/00000.tar#mute", "00000.tar/mute"),
        ("undecodable_video", "cats/00000.tar#clip", "00000.tar/clip"),
    }
    assert built.samples["00000.tar/2"].media[0].data[0] == make.picture(2)
    assert built.samples["00001.tar/0"].media[0].data[0] == make.picture(0)


def test_a_clip_inside_a_tar_or_a_table_is_the_clip_itself(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "files").mkdir(parents=True)
    make.clip(raw / "files" / "c.mp4")
    put(raw, "files/c.txt", "a screen")
    clip = (raw / "files" / "c.mp4").read_bytes()
    put_tar(raw, "tarred/0.tar", [("b.jpg", make.picture(0)), ("b.txt", "a picture"), ("c.mp4", clip), ("c.txt", "x")])
    put_parquet(raw, "table/train.parquet", [{"id": "t", "video": {"bytes": clip, "path": "c.mp4"}, "caption": "y"}])
    built = build(raw, tmp_path / "out", BuildConfig(context="none"))
    assert built.rejects == []
    (alone,), (tarred,), (cell,) = (built.samples[id].media for id in ("files/c.mp4", "0.tar/c", "t"))
    assert (alone.kind, len(alone.files), alone.duration_s) == ("video", 8, 1.2)
    for other in (tarred, cell):
        assert (other.kind, other.sha256, other.timestamps_s) == ("video", alone.sha256, alone.timestamps_s)
        assert other.duration_s == alone.duration_s


@pytest.mark.parametrize("place", ["train-00000-of-00001.parquet", "data-00000-of-00001.arrow"])
def test_datasets(tmp_path: Path, place: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": str(n), "images": [picture(n), picture(n + 10)], "question": "What?", "answer": f"{n}."}
        for n in range(4)
    ]
    rows.append({"id": "broken", "images": [{"bytes": b"no picture", "path": None}], "question": "?", "answer": "x"})
    rows.append({"id": "null", "images": [None], "question": "?", "answer": "x"})
    rows.append({"id": "away", "images": [{"bytes": None, "path": "none.jpg"}], "question": "?", "answer": "x"})
    rows.append({"id": "mute", "images": [picture(3)], "question": "?", "answer": None})
    rows.append(rows[0] | {"answer": "another"})
    put = put_arrow if place.endswith("arrow") else put_parquet
    put(tmp_path / "raw", place, rows)
    built = build(tmp_path / "raw", tmp_path / "out", RELATED)
    (source,) = built.sources.values()
    assert (source["format"], source["in"], source["out"]) == ("datasets", 9, 4)
    assert {(reason, id) for reason, _, id in record_rejects(built.rejects)} == {
        ("unsupported_media", "broken"),
        ("bad_media", "null"),
        ("missing_file", "away"),
        ("empty_answer", "mute"),
        ("duplicate_id", "0"),
    }
    assert {locator for _, locator, _ in record_rejects(built.rejects)} == {f"{place}[{n}]" for n in range(4, 9)}
    assert [medium.data[0] for medium in built.samples["3"].media] == [make.picture(3), make.picture(13)]


def test_a_training_list(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make.add_mimicit(raw, "LA", triplets=6)
    pair = {"instruction": "What?", "answer": "This.", "image_ids": ["X_IMG_1", "X_IMG_2"]}
    put(raw, "X/X_instructions.json", {"data": {f"X_INS_{n}": pair for n in range(3)}})
    put(raw, "X/X.json", {"X_IMG_1": base64_jpeg(1), "X_IMG_2": base64_jpeg(2)})
    put(
        raw,
        "train.yaml",
        "IMAGE_TEXT:\n  LA:\n    mimicit_path: LA/LA_instructions.json\n    images_path: LA/LA.json\n"
        "    num_samples: 2\n"
        "VIDEO_TEXT:\n  FILM:\n    mimicit_path: X/X_instructions.json\n    images_path: X/X.json\n",
    )
    built = build(raw, tmp_path / "out", BuildConfig(shots=0))
    assert {name: (row["format"], row["out"]) for name, row in built.sources.items()} == {
        "la": ("mimicit", 2),
        "film": ("mimicit", 3),
    }
    assert {medium.kind for sample in built.samples.values() for medium in sample.media} == {"image", "video"}
    assert len(built.samples["X_INS_0"].media[0].files) == 2


def test_a_list_whose_files_are_absent_fails_the_build_or_is_left_out(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make.add_manifest(raw)
    put(raw, "train.yaml", "IMAGE_TEXT:\n  LA:\n    mimicit_path: LA_instructions.json\n")
    with pytest.raises(SourceError, match=r"train\.yaml: LA: its mimicit_path 'LA_instructions\.json' is not under"):
        build_shards(raw, tmp_path / "out", RELATED, engine=InProcess())
    built = build(raw, tmp_path / "out", RELATED, keep_going=True)
    assert [r["reason"] for r in built.rejects if r["scope"] == "source"] == ["unreadable_source"]
    assert built.sources["own"]["out"] == 18


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources of every kind, among them talks, clips and documents."""
    place = tmp_path_factory.mktemp("first")
    raw = make.make_raw(place / "raw")
    put(raw, "web/0.jpg", make.picture(500))
    document = [{"text": "Once."}, {"media": "0.jpg"}, {"text": "The end."}]
    put_lines(raw, "web/manifest.jsonl", [{"id": "page", "document": document}])
    build_shards(raw, place / "shards", BuildConfig(shots=2, shard_bytes=64 * 1024), engine=InProcess())
    return place / "shards"


def test_shards_built_again_are_the_same(first: Path, tmp_path: Path) -> None:
    built = build(first, tmp_path / "again", RELATED)
    old, new = list(load(first)), list(load(tmp_path / "again"))
    assert {s.source for s in old} == set(built.sources) == {"own", "llava_instruct", "la", "photos", "web"}
    key = lambda sample: (sample.source, sample.id)  # noqa: E731
    assert list(map(meaning, sorted(new, key=key))) == list(map(meaning, sorted(old, key=key)))
    assert Counter(t.relation for s in new for t in s.context) == Counter(
        {"related": sum(t.relation != "document" for s in old for t in s.context), "document": 1}
    )
    assert built.rejects == []
    build_shards(tmp_path / "again", tmp_path / "third", RELATED, engine=InProcess())
    for path in (tmp_path / "again").glob("shard-*.tar"):
        assert path.read_bytes() == (tmp_path / "third" / path.name).read_bytes()


def test_shards_built_again_with_other_options(first: Path, tmp_path: Path) -> None:
    config = BuildConfig(context="none", media=MediaOptions(size=24, frames=2))
    built = build(first, tmp_path / "small", config)
    for sample in built.samples.values():
        assert all(max(medium.width, medium.height) <= 24 for medium in sample.media)
        assert not sample.context or sample.query.relation == "document"
    film = built.samples["photos/c.mp4"].media[0]
    assert len(film.files) == 2


def test_one_shard_by_itself_and_a_folder_that_lacks_one(first: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in first.glob("shard-*.tar"))
    put(tmp_path, f"one/{names[0]}", (first / names[0]).read_bytes())
    built = build(tmp_path / "one", tmp_path / "out", RELATED)
    assert [row["format"] for row in built.sources.values()] == ["shards"]
    for path in first.iterdir():
        if path.name != names[-1]:
            put(tmp_path, f"holes/{path.name}", path.read_bytes())
    with pytest.raises(SourceError, match=rf"manifest\.json: lists {names[-1]}, which is absent"):
        build_shards(tmp_path / "holes", tmp_path / "never", RELATED, engine=InProcess())
    put(tmp_path, f"cut/{names[0]}", (first / names[0]).read_bytes()[:-1024])
    with pytest.raises(SourceError, match=rf"^{names[0]}: the archive is cut"):
        build_shards(tmp_path / "cut", tmp_path / "neither", RELATED, engine=InProcess())


def test_all_side_by_side(first: Path, tmp_path: Path) -> None:
    """No format takes the files of another."""
    raw = make.make_raw(tmp_path / "raw")
    put_tar(raw, "wds/00000.tar", [("a.jpg", make.picture(1)), ("a.txt", "x")])
    put_parquet(raw, "vqa/train.parquet", [{"image": picture(2), "question": "What?", "answer": "x"}])
    put_arrow(raw, "saved/data-00000-of-00001.arrow", [{"image": picture(3), "text": "x"}])
    for path in first.iterdir():
        put(raw, f"old/{path.name}", path.read_bytes())
    built = build(raw, tmp_path / "out", RELATED)
    formats = Counter(row["format"] for row in built.sources.values())
    assert formats == {
        "manifest": 1, "llava": 1, "mimicit": 1, "folder": 1, "webdataset": 1, "datasets": 2, "shards": 5,
    }  # fmt: skip
    assert not [r for r in built.rejects if r["scope"] == "record"]


def test_a_broken_sample_of_a_folder_of_many_sources_is_one_reject(first: Path, tmp_path: Path) -> None:
    for path in first.iterdir():
        put(tmp_path, f"in/{path.name}", path.read_bytes())
    shard = tmp_path / "in" / "shard-000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b'"format":"mimicit/1"', b'"format":"mimicit/2"', 1))
    built = build(tmp_path / "in", tmp_path / "out", RELATED)
    (reject,) = [r for r in built.rejects if r["scope"] == "record"]
    assert (reject["reason"], reject["locator"].partition("#")[0]) == ("schema", "shard-000.tar")


@pytest.mark.parametrize("place", ["data/train.parquet", "data/train.arrow"])
def test_pictures_named_in_cells_are_found_counted_and_followed(tmp_path: Path, place: str) -> None:
    src, out = tmp_path / "raw", tmp_path / "out"

    def row(id: str, *pictures: dict[str, Any]) -> dict[str, Any]:
        return {"id": id, "images": list(pictures), "question": "What?", "answer": id}

    def named(path: str) -> dict[str, Any]:
        return {"bytes": None, "path": path}

    rows = [
        row("beside", named("a.jpg")),
        row("suffix", named("coco/b.jpg"), picture(3)),
        row("inside", picture(4)),
        row("gone", named("nowhere.jpg")),
    ]
    (put_arrow if place.endswith("arrow") else put_parquet)(src, place, rows)
    put(src, "data/a.jpg", make.picture(1))
    put(src, "elsewhere/coco/b.jpg", make.picture(2))
    built = build(src, out, RELATED)
    (source,) = built.sources.values()
    assert source["found"] == {"beside": 1, "suffix": 1} and built.unused == []
    assert record_rejects(built.rejects) == {("missing_file", f"{place}[3]", "gone")}
    shown = {id: [medium.data[0] for medium in sample.media] for id, sample in built.samples.items()}
    assert shown == {
        "beside": [make.picture(1)],
        "suffix": [make.picture(2), make.picture(3)],
        "inside": [make.picture(4)],
    }
    put(src, "data/a.jpg", make.picture(7))  # the table is as it was
    again = build(src, out, RELATED, overwrite=True)
    assert again.samples["beside"].media[0].data[0] == make.picture(7)
