"""A source that is imported in pieces, side by side, comes to the same as in one go: records, rejects, faults."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimicit.errors import SourceError
from mimicit.pipeline import BuildConfig
from mimicit.pipeline.engines.local import Engine, LocalEngine
from mimicit.pipeline.joins import joins, started_once
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.rejects import Rejects
from mimicit.pipeline.stages import entries, part_writer
from mimicit.pipeline.stages.importing import import_parts, import_sources, part_rejects, part_table
from mimicit.pipeline.stages.resolve import resolve_references
from mimicit.pipeline.tables import MEDIA_REFERENCES_NAME, RESOLVED_NAME
from mimicit.progress import Silent
from mimicit.records import Sample, sample_to_json
from mimicit.sample_table import embedded_pictures, row_of_sample, table_schema
from mimicit.schema import canonical_json
from mimicit.sources import detect
from mimicit.sources.files.root import Root
from mimicit.sources.formats import shards
from mimicit.sources.records import pieces
from tests.factories import raw as make
from tests.factories.assembling import Part
from tests.factories.builds import build
from tests.factories.engines import InProcess
from tests.factories.exporting import make_sample, write_shard
from tests.factories.formats import (
    coco,
    coco_image,
    img2dataset_table,
    mmc4_document,
    mmc4_image,
    noise,
    obelics_table,
    put_vqa,
    tar_of,
    vqa_annotation,
    vqa_question,
    zip_of,
)
from tests.factories.shards import rewrite_index, write_shards
from tests.factories.sources import base64_jpeg, put

RECORDS = 24
NAN = float("nan")
LONG = "x" * 20_000


def cut_small(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(pieces, "_PIECE_BYTES", size)
    monkeypatch.setattr(pieces, "_GROUP_BYTES", size)
    monkeypatch.setattr(pieces, "_ZIPPED_BYTES", size)
    monkeypatch.setattr(shards, "_PIECE_SAMPLES", 1)


def put_vqav2(root: Path) -> None:
    for picture in range(3):
        put(root, f"vqa/train2014/COCO_train2014_{picture:012d}.jpg", make.picture(picture))
    questions: list[Any] = [vqa_question(number, number % 3) for number in range(RECORDS)]
    questions[3:5] = [vqa_question(2, 2), {"question_id": 7.5}]  # repeated, without a sound id
    questions.insert(9, "no object")
    questions[12] = vqa_question(12, 1)  # about another picture than its annotation
    annotations: list[Any] = [vqa_annotation(number, number % 3) for number in range(RECORDS + 3)]
    random.Random(0).shuffle(annotations)
    annotations[5] |= {"answers": "none"}
    annotations[9] |= {"multiple_choice_answer": 3, "extra": NAN, "question_type": NAN}
    annotations.insert(2, [1])
    annotations += [vqa_annotation(number, 0, multiple_choice_answer=LONG) for number in (1, 20, 20, 99)]
    put_vqa(root, "vqa", questions, annotations)
    put_vqa(root, "test", questions, None, subtype="test2015")


def put_questions(root: Path) -> None:
    """Questions with answers in another file, and in lists of each picture."""
    for number in range(3):
        put(root, f"q/images/p{number}.jpg", make.picture(30 + number))
    questions: list[Any] = [{"question_id": n, "question": f"Q{n}?", "image": f"p{n % 4}.jpg"} for n in range(RECORDS)]
    questions[3:5] = [questions[2], {"question_id": None}]
    answers: list[Any] = [{"question_id": n, "answer": f"a{n}", "of": NAN if n == 4 else n} for n in range(RECORDS + 2)]
    answers[7:9] = [answers[1], "none"]
    put(root, "q/val_q.json", questions)
    put(root, "q/val_a.json", json.dumps(answers))
    pictures: list[Any] = [
        {"id": n, "image": f"p{n % 4}.jpg", "qas": [{"question": f"Q{i}?", "answer": f"{n}"} for i in range(n % 4)]}
        for n in range(RECORDS)
    ]
    put(root, "q/nested.json", [*pictures[:5], 3, *pictures[5:]])
    put(root, "q/around.json", {"images": pictures})


def put_coco(root: Path) -> None:
    for picture in range(3):
        put(root, f"coco/train2017/{picture:012d}.jpg", make.picture(10 + picture))
    images: list[Any] = [coco_image(number) for number in range(5)]
    images += [coco_image(1, "000000000002.jpg"), {"id": 3}, 4, coco_image(0, "gone.jpg")]
    captions: list[Any] = [
        {"image_id": number % 7, "id": number % 20, "caption": f"Caption {number}."} for number in range(RECORDS)
    ]
    captions[4] |= {"caption": None, "of": NAN}
    captions.insert(6, None)
    put(root, "coco/captions_train2017.json", coco(images, captions))


def put_mmc4(root: Path) -> None:
    for number in range(2):
        put(root, f"mmc4/images/p{number}.jpg", noise(number))
    names = ("p0.jpg", "p1.jpg", "t0.jpg", "t1.jpg", "gone.jpg")
    documents = [
        json.dumps(mmc4_document([mmc4_image(names[n % 5], 1), mmc4_image(names[n % 3], 2)], note=n))
        for n in range(RECORDS)
    ]
    documents[3], documents[8] = documents[3][:50], "\ufeff" + documents[8]
    put(root, "mmc4/docs_no_face_shard_0_v2.jsonl", "\ufeff" + "\r\n".join([*documents[:9], "", *documents[9:]]))
    zipped = zip_of({"docs.jsonl": "\n".join(documents[::-1]).encode()})
    put(root, "mmc4/docs_no_face_shard_1_v2.jsonl.zip", zipped)
    put(root, "mmc4/docs_no_face_shard_0_v2.tar", tar_of({"a/t0.jpg": noise(2), "b/t0.jpg": noise(3)}))
    put(root, "mmc4/docs_no_face_shard_1_v2.tar", tar_of({"t0.jpg": noise(4), "t1.jpg": noise(5)}, {"l.jpg": "t0.jpg"}))


def put_obelics(root: Path) -> None:
    urls = [f"https://example.org/{number}.jpg" for number in range(4)]
    for part in range(3):
        rows = [[urls[n % 4], f"one {part} {n}", urls[(n + part) % 4], "two"] for n in range(4)]
        put_groups(root, f"obelics/data/train-{part:05d}-of-00003.parquet", obelics_table(rows))
    put_groups(root, "obelics/images/00000.parquet", img2dataset_table([*urls[:3], urls[0], None], {2: "failed"}))
    put_groups(root, "obelics/images/00001.parquet", img2dataset_table([urls[1], urls[2]]))
    put(root, "obelics/maps/urls.csv", "url,path\n" + "".join(f'"{url}","images\n{url}.jpg"\n' for url in urls * 9))
    put(root, "obelics/images/00000/000000000.jpg", make.picture(20))
    put(root, "obelics/images/00000.tar", tar_of({"000000001.jpg": make.picture(21), "x/000000001.jpg": b"again"}))
    put(root, "obelics/images/00001.tar", tar_of({"000000001.jpg": make.picture(22)}))


def put_mimicit(root: Path) -> None:
    def instruction(number: int, *related: str, **fields: Any) -> dict[str, Any]:
        ids = [f"SN_IMG_scene0000_color_{number % 4:06d}"]
        asked = {"instruction": f"What is {number}?", "answer": "A room.", "image_ids": ids}
        return {**asked, "rel_ins_ids": list(related), **fields}

    spellings = ("SN_INS_scene{}_activity1_round0", "SN_00_INS_scene{}_00_activity1_round0")
    data = {
        spellings[n % 2].format(f"{n:04d}"): instruction(n, spellings[n % 3 // 2].format(f"{(n * 7) % 30:04d}"))
        for n in range(RECORDS)
    }
    data |= {"LA_INS_1": instruction(2, "LA_INS_2"), "bad": 5, "": instruction(1), "nan": instruction(0, of=NAN)}
    put(root, "sn/SN_instructions.json", {"meta": {"data": 1}, "data": data})
    train = {spellings[0].format(f"{n:04d}"): [spellings[0].format(f"{n + 1:04d}")] for n in range(0, RECORDS, 2)}
    put(root, "sn/SN_train.json", train | {"nobody": ["LA_INS_1"], "odd": 4})
    pictures: dict[str, Any] = {f"SN_00_IMG_scene0000_00_color_{n:06d}": base64_jpeg(n) for n in range(4)}
    put(root, "sn/SN.json", {**pictures, "list": [base64_jpeg(5)], "none": None, "empty": ""})
    put(root, "cc_sbu_align/image/2.jpg", make.picture(50))
    captions = [{"image_id": n % 3, "caption": f"The image shows {n // 2} men."} for n in range(RECORDS)]
    put(root, "cc_sbu_align/filter_cap.json", {"annotations": [*captions, 7]})


def put_tables(root: Path) -> None:
    shown = [{"bytes": make.picture(n), "path": None} for n in range(4)]
    rows: list[dict[str, Any]] = [{"image": shown[n % 4], "text": f"Text {n}." if n % 5 else None} for n in range(11)]
    put_groups(root, "hub/train-00000-of-00001.parquet", pa.Table.from_pylist(rows))
    put(root, "own/a.jpg", make.picture(5))
    told = [{"media": "a.jpg" if n % 4 else "b.jpg", "instruction": f"{n}?", "answer": f"{n}"} for n in range(11)]
    put_groups(root, "own/manifest.parquet", pa.Table.from_pylist(told))
    pictures = [{"base64": base64_jpeg(n), "index": f"LA_IMG_{n % 9:012d}"} for n in range(11)]
    put_groups(root, "la/LA.parquet", pa.Table.from_pylist(pictures))
    asked = {f"LA_INS_{n}": {"instruction": "?", "answer": f"{n}", "image_ids": f"LA_IMG_{n:012d}"} for n in range(11)}
    put(root, "la/LA_instructions.json", {"meta": {}, "data": asked})


def put_csv(root: Path) -> None:
    put(root, "sheet/a.jpg", make.picture(60))
    rows = [f'{n % 20},{"a" if n % 4 else "b"}.jpg,"What, is\r\n""{n}""?",É {n}' for n in range(RECORDS)]
    rows[3], rows[7], rows[11] = '3,"a.jpg"x,?,!', ",,,", "11,a.jpg,?"
    rows.insert(14, 'text,"a.jpg;b.jpg","<answer>\n\n",5" of "snow"')
    rows.append(f"picture,{base64_jpeg(61)},?,{LONG}")
    table = "\r\n".join(["id,image,question,answer", *rows])
    put(root, "sheet/manifest.csv", "\ufeff" + table)
    put(root, "sheet/tabs.tsv", table.replace(",", "\t").encode("utf-16"))
    asked = "".join(f'\'{n}?;"{n}\r";\r' for n in range(RECORDS))
    put(root, "sheet/asked.csv", f"sep=;\rquestion;answer;\r{asked}")


def samples_of(source: str) -> list[Sample]:
    """Samples as of several builds: what they say and show contradicts others, some are repeated, some not sound."""
    rng = random.Random(source)
    samples = []
    for number in range(RECORDS):
        ids = [f"{'only ' * (id % 4 == 3)}{id}" for id in rng.choices(range(12), k=rng.randrange(3))] + [
            f"{number % 19}"
        ]
        parts = [
            Part(
                id=id,
                media=rng.choice([(), (0,), (0,), (4,), (1, 5)]),
                instruction=f"What is {id}, {number}?" + "<image>" * (number % 11 == 7),
                answer=f"It is {id}.",
                relation=rng.choice(["related", "random", "same_media"]) if id is not ids[-1] else None,
            )
            for id in ids
        ]
        if number % 6 == 5:
            parts = [replace(part, instruction="", relation="document") for part in parts]
        samples.append(make_sample(source, parts, {"number": number}))
    return samples


def put_shards(root: Path) -> None:
    samples = [sample for pair in zip(samples_of("one"), samples_of("two"), strict=True) for sample in pair]
    write_shards(root / "finished", samples, per_shard=5)
    write_shards(root / "no index", samples, per_shard=5)
    (root / "no index/index.parquet").unlink()
    (root / "loose").mkdir()
    for part in range(3):
        write_shard(root / f"loose/{part}.tar", samples[part::3])
    broken = tar_of({f"{samples[0].key}.json": b"{", "a/b.json": canonical_json(sample_to_json(samples[3]))})
    put(root, "loose/broken.tar", broken)
    rows = [row_of_sample(sample, embedded_pictures(sample)) for sample in samples]
    rows[7]["meta"], rows[9]["source"] = "{", None
    for part in range(3):
        table = pa.Table.from_pylist(rows[part::3], schema=table_schema())
        put_groups(root, f"samples/train-{part:05d}-of-00003.parquet", table)


def put_groups(root: Path, path: str, table: pa.Table) -> None:
    """A parquet file of row groups of two rows."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / path, row_group_size=2)


def put_all(root: Path) -> None:
    every = (put_vqav2, put_coco, put_mmc4, put_obelics, put_mimicit, put_tables, put_csv, put_questions, put_shards)
    for put_one in every:
        put_one(root)


def imported(raw: Path, work: Path, engine: Engine | None = None, *, keep_going: bool = False) -> dict[str, Any]:
    """What import and resolve make of ``raw``: records and media, rejects in their order, notes, and how many parts."""
    work.mkdir(exist_ok=True)
    root = Root(raw, scratch=work / "scratch")
    specs = list(detect(root).sources)
    rules = {spec.name: BuildConfig().rules() for spec in specs}
    with started_once(work):
        try:
            import_sources(work, root, specs, rules, engine or InProcess(), Silent(), keep_going=keep_going)
        except SourceError as error:
            return {"error": str(error)}
        resolve_references(work, specs)
        with joins(work) as db:
            rejects = list(Rejects(db, work, part_rejects(work)).in_order())
    parts = [part for part in import_parts(work) if part.summary.unreadable is None]
    records = {part.number: ColumnFile(part_table(work, part.number, "records")).table().to_pylist() for part in parts}
    found = []
    for row in ColumnFile(work / RESOLVED_NAME).table().to_pylist():
        record = records[row.pop("part")][row.pop("row")]
        texts = ("place", "instruction", "answer", "meta", "conversation", "turn", "parts")
        found.append(row | {name: record[name] for name in texts})
    notes: dict[tuple[int, str], tuple[int, str]] = {}
    counts: dict[tuple[int, str], int] = {}
    for part in parts:
        for kind, (count, first) in part.summary.notes.items():
            before, place = notes.get((part.source, kind), (0, first))
            notes[part.source, kind] = before + count, place
        for way, count in part.summary.found.items():
            counts[part.source, way] = counts.get((part.source, way), 0) + count
        counts[part.source, "records"] = counts.get((part.source, "records"), 0) + part.summary.records
    media = ColumnFile(work / MEDIA_REFERENCES_NAME).table().to_pylist()
    return {"records": found, "rejects": rejects, "notes": notes, "counts": counts, "media": media, "parts": len(parts)}


def check_same(
    raw: Path, work: Path, monkeypatch: pytest.MonkeyPatch, size: int, *, keep_going: bool = False
) -> dict[str, Any]:
    """What ``raw`` comes to, in one go as in pieces of ``size`` bytes."""
    work.mkdir()
    whole = imported(raw, work / "whole", keep_going=keep_going)
    cut_small(monkeypatch, size)
    found = imported(raw, work / "pieces", keep_going=keep_going)
    assert found.pop("parts", 1) > whole.pop("parts", 0)
    assert found == whole
    return whole


def test_a_build_in_pieces_has_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_all(tmp_path / "raw")
    build(tmp_path / "raw", tmp_path / "whole", BuildConfig())
    cut_small(monkeypatch, 1_500)
    build(tmp_path / "raw", tmp_path / "pieces", BuildConfig())
    assert make.hashes(tmp_path / "pieces") == make.hashes(tmp_path / "whole")


def test_sources_in_pieces_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_all(tmp_path / "raw")
    check_same(tmp_path / "raw", tmp_path / "work", monkeypatch, 700)


def _reordered(value: Any) -> Any:
    return dict(reversed(value.items())) if isinstance(value, dict) else value


SPELLINGS: dict[str, Callable[[Any], bytes]] = {
    "indented": lambda value: json.dumps(value, indent=4).encode(),
    "reversed": lambda value: json.dumps(_reordered(value)).encode(),
    "marked": lambda value: json.dumps(value).encode("utf-8-sig"),
    "utf-16": lambda value: json.dumps(value).encode("utf-16"),
    "escaped": lambda value: json.dumps(value).replace('"image_id"', '"image_\\u0069d"').encode(),
    "twice": lambda value: (json.dumps(value)[:-1] + "," + json.dumps(value)[1:]).encode(),
    "cut": lambda value: json.dumps(value).encode()[:-200],
    "cut in a list": lambda value: json.dumps(value).replace("}, {", "} {", 9).encode(),
    "more behind": lambda value: json.dumps(value).encode() + b"]",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    raw = tmp_path / "raw"
    for put_one in (put_vqav2, put_coco, put_mimicit):
        put_one(raw)
    for path in sorted(raw.rglob("*.json")):
        path.write_bytes(SPELLINGS[spelling](json.loads(path.read_bytes())))
    check_same(raw, tmp_path / "work", monkeypatch, 1_200)


def test_a_table_with_an_open_quote_fails_as_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"a.jpg,{n}\n" for n in range(RECORDS))
    put(tmp_path, "raw/manifest.csv", f'image,caption\n{rows}a.jpg,"open\n{rows}')
    put(tmp_path, "raw/a.jpg", make.picture(0))
    whole = imported(tmp_path / "raw", tmp_path / "whole")
    assert "manifest.csv:26: " in whole["error"]
    cut_small(monkeypatch, 20)
    assert imported(tmp_path / "raw", tmp_path / "pieces") == whole


def test_an_index_that_lacks_a_sample_fails_as_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "raw", samples_of("one"), per_shard=5)
    rewrite_index(folder, lambda table: table.slice(0, RECORDS - 1))
    whole = imported(folder, tmp_path / "whole")
    assert "index.parquet: lists 3 samples of shard-004.tar, which has 4" in whole["error"]
    cut_small(monkeypatch, 20)
    assert imported(folder, tmp_path / "pieces") == whole


def test_a_source_that_cannot_be_read_is_left_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw"
    put_vqav2(raw)
    put_coco(raw)
    path = next(raw.glob("vqa/*annotations.json"))
    path.write_bytes(path.read_bytes()[:-100])
    whole = check_same(raw, tmp_path / "work", monkeypatch, 600, keep_going=True)
    assert [reject[3] for reject in whole["rejects"] if reject[1] == "source"] == ["unreadable_source"]


@pytest.mark.parametrize("first", [None, "a text", {"image": "0.jpg", "caption": "the first"}])
def test_lists_beside_each_other_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: object) -> None:
    raw = tmp_path / "raw"
    rows = [{"image": "0.jpg", "caption": f"picture {number}"} for number in range(15)]
    put(raw, "0.jpg", make.picture(0))
    put(raw, "rows.json", json.dumps({"train": rows[:12], "val": [first, *rows[12:]]}))
    whole = imported(raw, tmp_path / "whole")
    cut_small(monkeypatch, 200)
    found = imported(raw, tmp_path / "pieces")
    assert found.pop("parts") == whole.pop("parts") and found == whole
    assert len(whole["records"]) + len(whole["rejects"]) == 16


def test_workers_find_what_others_have_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_vqav2(tmp_path / "raw")
    cut_small(monkeypatch, 2_000)
    alone = imported(tmp_path / "raw", tmp_path / "alone")
    (tmp_path / "many" / "import").mkdir(parents=True)
    shutil.copy(tmp_path / "alone/import/pieces", tmp_path / "many/import")  # workers would not cut so small
    engine = LocalEngine(2)
    try:
        assert imported(tmp_path / "raw", tmp_path / "many", engine) == alone
    finally:
        engine.close()


def test_equal_digests_of_other_keys_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for put_one in (put_vqav2, put_coco, put_shards):
        put_one(tmp_path / "raw")
    for module in (entries, part_writer):
        monkeypatch.setattr(module, "digest_of", lambda key: len(key) % 2)
    check_same(tmp_path / "raw", tmp_path / "work", monkeypatch, 1_000)


def test_a_large_zip_is_read_through_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_mmc4(tmp_path / "raw")
    cut_small(monkeypatch, 1_000)
    imported(tmp_path / "raw", tmp_path / "pieces")
    (copy,) = (tmp_path / "pieces" / "scratch").iterdir()
    assert copy.read_bytes().count(b"\n") == RECORDS - 1
