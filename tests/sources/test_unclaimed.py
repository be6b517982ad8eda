from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimicit.errors import SourceError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.sources import detect
from mimicit.sources.detect import why_unused
from mimicit.sources.files.root import Root
from tests.factories.engines import InProcess
from tests.factories.sources import base64_jpeg, jpeg, put
from tests.factories.tars import put_tar


def lines_of(folder: Path) -> list[str]:
    root = Root(folder)
    return [f"{path}: {why_unused(root, path)}" for path in detect(root).unused]


def test_every_table_that_no_format_takes_is_named_with_its_mend(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "Bild,Frage,Antwort\nx.jpg,Was?,Das.\n")
    put(tmp_path, "b.tsv", "twice\ttwice\n")
    put(tmp_path, "c.XLSX", b"PK\x03\x04")
    put(tmp_path, "good.csv", "image,question,answer\nx.jpg,What?,This.\n")
    put(tmp_path, "notes.md", "nothing")
    put(tmp_path, "x.jpg", jpeg())
    assert lines_of(tmp_path) == [
        "a.csv: a table with the columns Bild, Frage, Antwort; name them image, question and answer,"
        " or image and caption",
        "b.tsv: a table whose first line does not name the columns, each once, in UTF-8",
        "c.XLSX: a spreadsheet; save the sheet as CSV (UTF-8)",
        "notes.md: neither JSON, CSV, parquet, Arrow nor tar: it begins with b'nothing'",
    ]


def test_what_is_seen_in_a_file_is_said_with_the_nearest_format_and_what_it_misses(tmp_path: Path) -> None:
    put(tmp_path, "a.json", [{"id": 1, "caption": "a cat", "thing": "x.jpg"}])
    put(tmp_path, "b.jsonl", '{"text_list": ["x"], "url": "y"}\n')
    put(tmp_path, "c.json", {"images": [{"file_name": "x.jpg"}], "annotations": [{"image_id": 1, "bbox": []}]})
    put(tmp_path, "d.json", {"LA_IMG_1": base64_jpeg()})
    put(tmp_path, "e.json", "[1, 2")
    put(tmp_path, "f.txt", "a cat")
    put(tmp_path, "g.yaml", "a: 1")
    put(tmp_path, "h.zip", b"PK\x03\x04")
    put(tmp_path, "i.bin", b"")
    put_tar(tmp_path, "j.tar", [("a.jpg", jpeg()), ("b.jpg", jpeg())])
    put_tar(tmp_path, "k.tar", [("a.json", {"text_list": [], "other": 1})])
    pq.write_table(pa.table({"question": ["?"], "answer": ["!"]}), tmp_path / "l.parquet")
    records = [{"questionId": 1, "question": "?", "image_local_title": "1.jpg", "answers": ["a"], "boxes": [{"x": 1}]}]
    put(tmp_path, "m.json", {"dataset_name": "x", "data": records})
    put(tmp_path, "n.json", {"1.jpg": "a cat", "2.jpg": {"width": 1}})
    put(tmp_path, "o.json", {"data": {"a": {"thing": 1}}})
    put(tmp_path, "p.json", {"data": {"questions": ["is it"], "dialogs": [{"image_id": 1, "dialog": []}]}})
    assert lines_of(tmp_path) == [
        "a.json: a JSON list of records with id, caption, thing; the nearest format is captions, for which image or"
        " video is missing",
        "b.jsonl: a JSON object with text_list, url; the nearest format is mmc4, for which image_info or"
        " json.image_info is missing",
        "c.json: a JSON object with images, annotations; the nearest format is coco-captions, for which"
        " annotations[].caption is missing",
        "d.json: a JSON object with LA_IMG_1; these are pictures by id, and no instructions name them:"
        " d_instructions.json",
        "e.json: a JSON list of records in which no record could be read",
        "f.txt: a text, and no picture or clip 'f' beside it that it could describe",
        "g.yaml: a YAML file; the only ones that are read are training lists of MIMIC-IT, with mimicit_path",
        "h.zip: a zip archive; unpack it",
        "i.bin: an empty file",
        "j.tar: a tar of samples with .jpg; the nearest format is webdataset, for which txt or text or caption or cls"
        " or json is missing",
        "k.tar: a tar of samples with .json; the nearest format is mmc4, for which image_info or json.image_info is"
        " missing",
        "l.parquet: a parquet table with the columns question, answer; the nearest format is datasets, for which"
        " a column of pictures is missing",
        "m.json: a JSON object with dataset_name, data; name the fields of its records (questionId, question,"
        " image_local_title, answers, boxes) image, question and answer",
        "n.json: a JSON object with 1.jpg, 2.jpg; the nearest format is mimicit, for which data is missing",
        "o.json: a JSON object with data; name what is in it image, question and answer",
        "p.json: a JSON object with data; name the fields of its records (image_id, dialog) image, question and answer",
    ]


def test_a_wide_table_is_named_in_one_line(tmp_path: Path) -> None:
    put(tmp_path, "wide.csv", ",".join(f"c{number}" for number in range(900)) + "\n")
    (line,) = lines_of(tmp_path)
    assert len(line) < 200


def test_a_build_without_a_source_says_so_before_it_ends(tmp_path: Path) -> None:
    class Notes:
        def __init__(self) -> None:
            self.said: list[str] = []

        def update(self, stage: str, done: int, total: int | None) -> None: ...

        def note(self, message: str) -> None:
            self.said.append(message)

    notes = Notes()
    put(tmp_path, "raw/a.csv", "Bild,Antwort\nx.jpg,Das.\n")
    with pytest.raises(SourceError, match="nothing to build from"):
        build_shards(tmp_path / "raw", tmp_path / "out", BuildConfig(), engine=InProcess(), progress=notes)
    assert [note.partition(":")[0] for note in notes.said] == ["a.csv"]


def test_strict_refuses_data_that_nobody_uses_and_no_texts_for_people(tmp_path: Path) -> None:
    put(tmp_path, "raw/a.jpg", jpeg())
    put(tmp_path, "raw/a.txt", "a cat")
    put(tmp_path, "raw/README.md", "about the cat")
    put(tmp_path, "raw/LICENSE", "free")
    put(tmp_path, "raw/loose.jpg", jpeg(3))
    config = BuildConfig(context="none")
    manifest = build_shards(tmp_path / "raw", tmp_path / "out", config, engine=InProcess(), strict=True).manifest
    assert [file["path"] for file in manifest["input"]["unused_files"]] == ["LICENSE", "README.md"]
    assert (manifest["input"]["unused"], manifest["input"]["unused_media"]) == (2, 0)  # the folder rejects loose.jpg
    put(tmp_path, "raw/rows.json", [{"caption": "a dog"}])
    put(tmp_path, "raw/table.csv", "Bild,Text\n1,2\n")
    with pytest.raises(SourceError, match=r"^rows\.json and 1 more: not used: a JSON list") as caught:
        build_shards(tmp_path / "raw", tmp_path / "strict", config, engine=InProcess(), strict=True)
    assert "with --strict" in str(caught.value)
    assert not (tmp_path / "strict" / "manifest.json").exists()
    unused = build_shards(tmp_path / "raw", tmp_path / "all", config, engine=InProcess()).manifest["input"]
    assert unused["unused"] == 4
