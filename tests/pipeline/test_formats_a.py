"""Published formats from file to shard: sound sets side by side, and sets with a fault of every applicable reason."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from mimicit.pipeline import BuildConfig
from mimicit.prompt import IMAGE, render
from mimicit.sources import detect
from mimicit.sources.files.root import Root
from tests.factories import raw
from tests.factories.builds import Built, build
from tests.factories.formats import (
    ADD,
    coco,
    coco_image,
    mmc4_document,
    mmc4_image,
    noise,
    obelics_table,
    put_vqa,
    tar_of,
    vqa_annotation,
    vqa_question,
    write_table,
    zip_of,
)
from tests.factories.sources import put, put_lines

CUT = raw.picture(1)[:200]
ODD = "Half a word\0."
LONG = "x" * 1_000_001


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format of this file and every kind of source there was before, under one folder."""
    root = raw.make_raw(tmp_path_factory.mktemp("raw"))
    for add in ADD.values():
        add(root)
    return root


@pytest.fixture(scope="module")
def built(side_by_side: Path) -> Built:
    return build(side_by_side, side_by_side.parent / f"{side_by_side.name}-shards", BuildConfig())


def test_no_format_takes_the_files_of_another(side_by_side: Path) -> None:
    detection = detect(Root(side_by_side))
    assert sorted((spec.files[0].partition("/")[0], spec.format) for spec in detection.sources) == [
        ("LA", "mimicit"),
        ("activitynet", "video-chatgpt"),
        ("alpaca", "alpaca"),
        ("cc_sbu_align", "minigpt4"),
        ("coco", "coco-captions"),
        ("lavis", "captions"),
        ("llava_tiny", "llava"),
        ("mmc4", "mmc4"),
        ("obelics", "obelics"),
        ("own", "manifest"),
        ("photos", "folder"),
        ("videochat2", "videochat2"),
        ("vqa", "vqav2"),
    ]
    assert detection.unused == ("coco/annotations/instances_train2017.json",)


@pytest.mark.parametrize("format", ADD)
def test_a_set_is_the_same_alone_and_among_others(side_by_side: Path, tmp_path: Path, format: str) -> None:
    ADD[format](tmp_path)
    (alone,) = detect(Root(tmp_path)).sources
    among = [spec for spec in detect(Root(side_by_side)).sources if spec.format == format]
    assert [(spec.format, spec.files) for spec in among] == [(format, alone.files)]


def test_sound_sets_are_built_without_a_reject(built: Built) -> None:
    assert built.rejects == []
    assert built.unused == ["coco/annotations/instances_train2017.json"]
    outs = {source["format"]: source["out"] for source in built.sources.values()}
    expected = {"mmc4": 2, "obelics": 2, "vqav2": 2, "coco-captions": 2, "captions": 2, "minigpt4": 1}
    expected |= {"video-chatgpt": 1, "videochat2": 2, "alpaca": 3}
    assert {format: outs[format] for format in ADD} == expected


def test_samples_hold_what_the_files_say(built: Built) -> None:
    by_source: dict[str, list[Any]] = {}
    for sample in built.samples.values():
        assert render(sample).count(IMAGE) == len(sample.media)
        by_source.setdefault(sample.source, []).append(sample)
    texts = {render(sample) for sample in by_source["mmc4"]}
    assert texts == {
        "s0<|endofchunk|><image><image>s1 s2<|endofchunk|>",  # from a folder of pictures
        "<image>s0 s1 s2<|endofchunk|>",  # zipped, with its picture in a tar
    }
    assert {render(sample) for sample in by_source["data"]} == {
        "<image>one\n\ntwo<|endofchunk|>",
        "zero<|endofchunk|><image>one<|endofchunk|>",
    }
    (video,) = by_source["videoinstruct100k"]
    assert (video.media[0].kind, video.query.answer) == ("video", "Crossing.")
    (last,) = [sample for sample in by_source["alpaca_data"] if sample.query.answer == "7"]
    assert [(triplet.answer, triplet.relation) for triplet in last.triplets[-2:]] == [
        ("3", "conversation"),
        ("7", None),
    ]
    assert all(len(sample.meta["answers"]) == 10 for sample in by_source["v2_openended_mscoco_train2014_questions"])


class Faulty(NamedTuple):
    """A set with faults: how many samples are left, and (scope, stage, reason, pattern of the place) of each reject."""

    out: int
    rejects: list[tuple[str, str, str, str]]


def faulty_mmc4(root: Path) -> Faulty:
    put(root, "good.jpg", noise(0))
    put(root, "cut.jpg", noise(1)[:11_000])
    put(root, "small.jpg", raw.picture(0))
    put(root, "x.tar", tar_of({"../a.jpg": noise(2), "tarred.jpg": noise(3)}))
    good = mmc4_image("good.jpg", 2)
    inline = mmc4_image("i", 0, image_base64=base64.b64encode(noise(4)).decode())
    bad_inline = mmc4_image("i", 0, image_base64="!" * 20_000)
    images = [
        (mmc4_image("small.jpg", 0), "import", "file_size"),
        (mmc4_image("none.jpg", 0), "import", "missing_file"),
        (mmc4_image("good.jpg", 0, 0.1), "import", "low_similarity"),
        (mmc4_image("../../good.jpg", 0), "import", "outside_root"),
        (mmc4_image("good.jpg", 9), "import", "malformed"),
        (mmc4_image("cut.jpg", 0), "media", "truncated_image"),
        (bad_inline, "media", "bad_base64"),
    ]
    lost = [mmc4_document([image, good], id=f"loses {number}") for number, (image, _, _) in enumerate(images)]
    documents = [
        *lost,
        mmc4_document([inline, mmc4_image("tarred.jpg", 1)], id="good"),
        mmc4_document([good] * 6, id="six"),
        mmc4_document([good], ["a", " ", " "], id="unpaired"),
        mmc4_document([], id="no picture"),
        mmc4_document([good], [ODD], id="special"),
        mmc4_document([mmc4_image("good.jpg", 0)], id="good"),
        mmc4_document([mmc4_image("cut.jpg", 0)], id="only a cut one"),
        mmc4_document([good], id="text") | {"text_list": "s0"},
    ]
    put_lines(root, "x.jsonl", documents)
    with (root / "x.jsonl").open("a") as file:
        file.write("{\n")
    rejects = [("media", stage, reason, rf"x\.jsonl:{n}") for n, (_, stage, reason) in enumerate(images, 1)]
    return Faulty(
        out=9,
        rejects=[
            *rejects,
            ("media", "import", "outside_root", r"x\.tar"),
            ("media", "import", "too_many_pictures", r"x\.jsonl:9"),
            ("media", "import", "unpaired_media", r"x\.jsonl:10"),
            ("record", "import", "no_media", r"x\.jsonl:10"),
            ("record", "import", "no_media", r"x\.jsonl:11"),
            ("record", "import", "malformed", r"x\.jsonl:12"),
            ("record", "import", "duplicate_id", r"x\.jsonl:13"),
            ("record", "media", "truncated_image", r"x\.jsonl:14"),
            ("record", "import", "malformed", r"x\.jsonl:15"),
            ("record", "import", "malformed", r"x\.jsonl:16"),
        ],
    )


def faulty_obelics(root: Path) -> Faulty:
    urls = [f"https://example.org/{number}.jpg" for number in range(3)]
    put(root, "pictures/0.jpg", raw.picture(0))
    put(root, "pictures/1.jpg", CUT)
    paths = ["pictures/0.jpg", "pictures/1.jpg", "../2.jpg"]
    put_lines(
        root, "map.jsonl", [*({"url": u, "path": p} for u, p in zip(urls, paths, strict=True)), {"url": 7, "path": ""}]
    )
    documents = [
        [urls[0], "good"],
        [urls[0], urls[1], urls[2], "https://example.org/unknown.jpg", "loses three", urls[0]],
        [urls[1], "only a cut one"],
        ["no picture"],
        [urls[0]],
        [urls[0], ODD],
    ]
    table = obelics_table(documents)
    write_table(root, "x.parquet", pa.concat_tables([table, table.slice(0, 1)]))
    return Faulty(
        out=2,
        rejects=[
            ("reference", "import", "malformed", r"map\.jsonl:4"),
            ("media", "media", "truncated_image", r"x\.parquet\[1\]"),
            ("media", "import", "outside_root", r"x\.parquet\[1\]"),
            ("media", "import", "missing_file", r"x\.parquet\[1\]"),
            ("media", "import", "unpaired_media", r"x\.parquet\[1\]"),
            ("record", "media", "truncated_image", r"x\.parquet\[2\]"),
            ("record", "import", "no_media", r"x\.parquet\[3\]"),
            ("record", "import", "empty_answer", r"x\.parquet\[4\]"),
            ("record", "import", "malformed", r"x\.parquet\[5\]"),
            ("record", "import", "duplicate_id", r"x\.parquet\[6\]"),
        ],
    )


def faulty_vqav2(root: Path) -> Faulty:
    put(root, "train2014/COCO_train2014_000000000001.jpg", raw.picture(0))
    put(root, "train2014/COCO_train2014_000000000002.jpg", CUT)
    pictures = {10: 1, 11: 1, 12: 2, 13: 3, 14: 1, 15: 1}
    questions: list[Any] = [vqa_question(id, picture) for id, picture in pictures.items()]
    questions += [vqa_question(10, 1), vqa_question(16, 1, question=ODD), 7]
    answers = [vqa_annotation(id, picture) for id, picture in pictures.items() if id not in (11, 15)]
    answers += [vqa_annotation(15, 9), vqa_annotation(16, 1), vqa_annotation(99, 1)]
    put_vqa(root, ".", questions, answers)
    place = r"v2_OpenEnded_mscoco_train2014_questions\.json#questions"
    return Faulty(
        out=2,
        rejects=[
            ("record", "import", "empty_answer", rf"{place}\[1\]"),
            ("record", "media", "truncated_image", rf"{place}\[2\]"),
            ("record", "import", "missing_file", rf"{place}\[3\]"),
            ("record", "import", "malformed", rf"{place}\[5\]"),
            ("record", "import", "duplicate_id", rf"{place}\[6\]"),
            ("record", "import", "malformed", rf"{place}\[7\]"),
            ("record", "import", "malformed", rf"{place}\[8\]"),
            ("reference", "import", "dangling_reference", r"v2_mscoco_train2014_annotations\.json#annotations\[6\]"),
        ],
    )


def faulty_coco(root: Path) -> Faulty:
    put(root, "val2017/000000000001.jpg", raw.picture(0))
    put(root, "val2017/000000000002.jpg", CUT)
    images = [coco_image(1), coco_image(2), coco_image(3), coco_image(4, "../4.jpg"), coco_image(1), {"id": 6}]
    captions = [(1, "Good."), (2, "Cut."), (3, "Absent."), (4, "Outside."), (5, "Unknown.")]
    captions += [(1, text) for text in (" ", ODD, LONG)]
    rows = [{"id": number, "image_id": image, "caption": text} for number, (image, text) in enumerate(captions)]
    put(root, "captions_val2017.json", coco(images, [*rows, rows[0], None]))
    reasons = ["missing_file", "outside_root", "dangling_reference", "empty_answer", "malformed", "too_long"]
    reasons += ["duplicate_id", "malformed"]
    place = r"captions_val2017\.json#annotations"
    return Faulty(
        out=1,
        rejects=[
            ("media", "import", "duplicate_id", r"captions_val2017\.json#images\[4\]"),
            ("media", "import", "malformed", r"captions_val2017\.json#images\[5\]"),
            ("record", "media", "truncated_image", rf"{place}\[1\]"),
            *(("record", "import", reason, rf"{place}\[{n}\]") for n, reason in enumerate(reasons, 2)),
        ],
    )


def faulty_captions(root: Path) -> Faulty:
    put(root, "a.jpg", raw.picture(0))
    put(root, "cut.jpg", CUT)
    good = {"image": "a.jpg", "caption": "Good.", "id": "good"}
    rows = [
        good,
        {"image": "cut.jpg", "caption": "Cut."},
        {"image": "none.jpg", "caption": "Absent."},
        {"image": "../../a.jpg", "caption": "Outside."},
        {"image": "a.jpg", "caption": ""},
        {"image": "a.jpg", "caption": ODD},
        {"image": "a.jpg", "caption": [LONG, "Fine."]},
        good,
        7,
    ]
    put(root, "x.json", rows)
    reasons = ["missing_file", "outside_root", "empty_answer", "malformed", "too_long", "duplicate_id", "malformed"]
    return Faulty(
        out=2,
        rejects=[
            ("record", "media", "truncated_image", r"x\.json\[1\]"),
            *(("record", "import", reason, rf"x\.json\[{n}\]") for n, reason in enumerate(reasons, 2)),
        ],
    )


def faulty_minigpt4(root: Path) -> Faulty:
    put(root, "image/1.jpg", raw.picture(0))
    put(root, "image/2.jpg", CUT)
    put(root, "image/4.jpg", raw.picture(4))
    captions = [("1", "Good."), ("2", "Cut."), ("3", "Absent."), ("../../3", "Outside."), ("4", ""), ("4", ODD)]
    captions.append(("4", LONG))
    rows: list[Any] = [{"image_id": id, "caption": text} for id, text in captions]
    put(root, "filter_cap.json", {"annotations": [*rows, rows[0], 7]})
    reasons = ["missing_file", "outside_root", "empty_answer", "malformed", "too_long", "duplicate_id", "malformed"]
    place = r"filter_cap\.json#annotations"
    return Faulty(
        out=1,
        rejects=[
            ("record", "media", "truncated_image", rf"{place}\[1\]"),
            *(("record", "import", reason, rf"{place}\[{n}\]") for n, reason in enumerate(reasons, 2)),
        ],
    )


def faulty_video_chatgpt(root: Path) -> Faulty:
    (root / "videos").mkdir()
    raw.clip(root / "videos" / "good.mp4")
    put(root, "videos/cut.webm", b"\x1aE\xdf\xa3 and then nothing")
    good = {"q": "What?", "a": "Good.", "video_id": "good", "id": "good"}
    bad = [{"video_id": "cut"}, {"video_id": "none"}, {"video_id": "../../v"}, {"a": ""}, {"q": ODD}, {"a": LONG}]
    rows = [good, *(good | fields | {"id": number} for number, fields in enumerate(bad)), good, 7]
    put(root, "x.json", rows)
    reasons = ["missing_file", "outside_root", "empty_answer", "malformed", "too_long", "duplicate_id", "malformed"]
    return Faulty(
        out=1,
        rejects=[
            ("record", "media", "undecodable_video", r"x\.json\[1\]"),
            *(("record", "import", reason, rf"x\.json\[{n}\]") for n, reason in enumerate(reasons, 2)),
        ],
    )


def faulty_videochat2(root: Path) -> Faulty:
    raw.clip(root / "good.mp4")
    put(root, "cut.mp4", b"\0\0\0\x18ftypmp42 and then nothing")
    good = {"id": "good", "video": "good.mp4", "QA": [{"i": "", "q": "What?", "a": "Good."}]}
    bad: list[dict[str, Any]] = [
        {"video": "cut.mp4"},
        {"video": "none.mp4"},
        {"video": "../a.mp4"},
        {"QA": [{"q": "What?", "a": ""}]},
        {"QA": [{"q": ODD, "a": "Yes."}]},
        {"QA": [{"q": "<image> or <image>?", "a": "Yes."}]},
        {"start": 0.0, "end": 1.0},
        {"QA": [{"q": "What?", "a": LONG}]},
    ]
    put(root, "x.json", [good, *(good | fields | {"id": n} for n, fields in enumerate(bad)), good, 7])
    reasons = ["missing_file", "outside_root", "empty_answer", "malformed", "placeholder_mismatch"]
    reasons += ["unsupported_media", "too_long", "duplicate_id", "malformed"]
    return Faulty(
        out=1,
        rejects=[
            ("record", "media", "undecodable_video", r"x\.json\[1\]"),
            *(("record", "import", reason, rf"x\.json\[{n}\]") for n, reason in enumerate(reasons, 2)),
        ],
    )


def faulty_alpaca(root: Path) -> Faulty:
    good = {"id": "good", "instruction": "Add.", "input": "1 and 2", "output": "3"}
    bad = [
        {"output": ""},
        {"instruction": ODD},
        {"instruction": "<image>"},
        {"images": ["a.jpg"]},
        {"history": "Hi."},
        {"output": LONG},
    ]
    put(root, "x.json", [good, *(good | fields | {"id": n} for n, fields in enumerate(bad)), good, 7])
    reasons = ["empty_answer", "malformed", "placeholder_mismatch", "unsupported_media", "malformed"]
    reasons += ["too_long", "duplicate_id", "malformed"]
    return Faulty(out=1, rejects=[("record", "import", r, rf"x\.json\[{n}\]") for n, r in enumerate(reasons, 1)])


FAULTY: dict[str, Callable[[Path], Faulty]] = {
    "mmc4": faulty_mmc4,
    "obelics": faulty_obelics,
    "vqav2": faulty_vqav2,
    "coco-captions": faulty_coco,
    "captions": faulty_captions,
    "minigpt4": faulty_minigpt4,
    "video-chatgpt": faulty_video_chatgpt,
    "videochat2": faulty_videochat2,
    "alpaca": faulty_alpaca,
}


@pytest.mark.parametrize("format", FAULTY)
def test_every_fault_is_counted_with_its_place_and_the_rest_is_built(tmp_path: Path, format: str) -> None:
    (tmp_path / "raw").mkdir()
    out, expected = FAULTY[format](tmp_path / "raw")
    built = build(tmp_path / "raw", tmp_path / "shards", BuildConfig())  # checks in = out + rejected + merged
    (source,) = built.sources.values()
    assert (source["format"], source["out"]) == (format, out)
    found = sorted((r["scope"], r["stage"], r["reason"], r["locator"]) for r in built.rejects)
    assert len(found) == len(expected), found
    for scope, stage, reason, place in expected:
        assert any(r[:3] == (scope, stage, reason) and re.fullmatch(place, r[3]) for r in found), (reason, place, found)


def test_an_unreadable_archive_stops_the_build_or_is_left_out(tmp_path: Path) -> None:
    ADD["alpaca"](tmp_path / "raw")
    put(tmp_path / "raw", "docs_shard_0_v2.jsonl.zip", zip_of({"a.jsonl": bytes(20 << 20)}))
    built = build(tmp_path / "raw", tmp_path / "shards", BuildConfig(), keep_going=True)
    (reject,) = built.rejects
    assert (reject["scope"], reject["reason"], reject["locator"]) == (
        "source",
        "unreadable_source",
        "docs_shard_0_v2.jsonl.zip",
    )
