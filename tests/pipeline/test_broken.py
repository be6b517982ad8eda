"""Broken input: each fault is a reject with the right reason or one line that names it, and the counts balance."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mimicit.errors import SourceError
from mimicit.loading import load
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.schema import validate
from mimicit.shards.verify import verify_folder
from tests.factories import raw as make
from tests.factories.commands import mimicit
from tests.factories.engines import InProcess

GOOD = {"id": "good", "media": "images/0.jpg", "instruction": "What?", "answer": "This."}


def folder_with(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    """A manifest with one good record and ``rows``, beside one good picture."""
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "0.jpg").write_bytes(make.picture(0))
    make.write_manifest(folder, [GOOD, *rows])
    return folder


def build(tmp_path: Path, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the only source's row of the manifest, its rejects), after the checks every build must pass."""
    out = tmp_path / "out"
    manifest = build_shards(tmp_path / "raw", out, BuildConfig(), engine=InProcess(), **options).manifest
    rejects: list[dict[str, Any]] = pq.read_table(out / "rejects.parquet").to_pylist()
    for reject in rejects:
        validate("reject", reject)
        assert reject["locator"]
    assert list(verify_folder(out)) == []
    (source,) = manifest["sources"]
    assert source["in"] == source["out"] + source["merged"] + sum(source["rejected"].values())
    assert manifest["totals"]["samples"] == source["out"]
    return source, [reject for reject in rejects if not reject["reason"].startswith("unused_")]


def record(**fields: Any) -> dict[str, Any]:
    return {**GOOD, "id": "bad", **fields}


def put(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "images" / name).write_bytes(data) and None


def png_header(width: int, height: int) -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0" * 1000)) + part(b"IEND", b"")
    )


def symlink_out(folder: Path) -> None:
    (folder.parent / "secret.jpg").write_bytes(make.picture(9))
    os.symlink(folder.parent / "secret.jpg", folder / "images" / "link.jpg")


NOTHING: Callable[[Path], None] = lambda folder: None  # noqa: E731

CASES = {
    "truncated JPEG": (put("t.jpg", make.picture(1, 640, 480)[:-400]), record(media="images/t.jpg"), "truncated_image"),
    "30,000 x 30,000 PNG": (put("b.png", png_header(30000, 30000)), record(media="images/b.png"), "too_many_pixels"),
    "text named .jpg": (
        put("n.jpg", b"I am a poem, not a picture.\n"),
        record(media="images/n.jpg"),
        "unsupported_media",
    ),
    "empty file": (put("e.jpg", b""), record(media="images/e.jpg"), "empty_media"),
    "missing file": (NOTHING, record(media="images/none.jpg"), "missing_file"),
    "path out of the root": (NOTHING, record(media="../secret.jpg"), "outside_root"),
    "absolute path": (NOTHING, record(media="/etc/passwd"), "outside_root"),
    "symlink out of the root": (symlink_out, record(media="images/link.jpg"), "outside_root"),
    "empty video": (put("v.mp4", b""), record(media="images/v.mp4"), "empty_media"),
    "video that is text": (put("w.mp4", b"<html>" * 50), record(media="images/w.mp4"), "unsupported_media"),
    "duplicate id": (NOTHING, record(id="good"), "duplicate_id"),
    "empty answer": (NOTHING, record(answer="  "), "empty_answer"),
    "no answer": (NOTHING, {"id": "bad", "instruction": "What?"}, "malformed"),
    "answer of the wrong type": (NOTHING, record(answer={"a": 1}), "malformed"),
    "NUL in a path": (NOTHING, record(media="images/\0.jpg"), "malformed"),
}


def test_every_broken_record_is_one_reject(tmp_path: Path) -> None:
    rows = [row if row["id"] == "good" else {**row, "id": name} for name, (_, row, _) in CASES.items()]
    reasons = [reason for _, _, reason in CASES.values()]
    folder = folder_with(tmp_path, *rows)
    for prepare, _, _ in CASES.values():
        prepare(folder)
    source, rejects = build(tmp_path)
    assert (source["in"], source["out"], source["rejected"]) == (1 + len(rows), 1, Counter(reasons))
    found = {one["locator"]: (one["id"], one["reason"]) for one in rejects if one["scope"] == "record"}
    wanted = zip((row["id"] for row in rows), reasons, strict=True)
    assert found == {f"manifest.jsonl:{line}": pair for line, pair in enumerate(wanted, 2)}
    assert all(reject["detail"] for reject in rejects)


def test_a_dangling_related_id_is_dropped_and_counted(tmp_path: Path) -> None:
    folder_with(tmp_path, record(id="other", related=["good", "nobody"]))
    source, rejects = build(tmp_path)
    assert (source["in"], source["out"], source["rejected"]) == (2, 2, {})
    (reject,) = rejects
    assert (reject["scope"], reject["reason"], reject["id"]) == ("reference", "dangling_reference", "other")
    assert "nobody" in reject["detail"]


def test_a_malformed_line_loses_only_itself(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    with open(folder / "manifest.jsonl", "a") as file:
        file.write('{"id": "broken", "answer": \n' + json.dumps(record(id="after")) + "\n")
    source, rejects = build(tmp_path)
    assert (source["in"], source["out"], source["rejected"]) == (3, 2, {"malformed": 1})
    assert rejects[0]["locator"] == "manifest.jsonl:2"


def test_an_image_count_mismatch_is_a_reject(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    make.add_llava(folder, talks=1)
    path = folder / "llava_tiny" / "llava_instruct.json"
    rows = json.loads(path.read_text())
    rows[0]["conversations"][0]["value"] = "<image>\n<image>\nWhat?"
    path.write_text(json.dumps(rows))
    source, _ = build(tmp_path)
    assert source["rejected"]["placeholder_mismatch"] >= 1
    assert source["out"] == 1


def test_llava_s_ids_name_the_picture_and_may_repeat(tmp_path: Path) -> None:
    """LLaVA-Instruct-150K has three talks about one picture, all with the id of the picture."""
    folder = tmp_path / "raw"
    make.add_llava(folder, talks=2)
    path = folder / "llava_tiny" / "llava_instruct.json"
    rows = json.loads(path.read_text())
    rows[1]["id"], rows[1]["image"] = rows[0]["id"], rows[0]["image"]
    path.write_text(json.dumps([*rows, rows[0]]))
    source, rejects = build(tmp_path)
    assert (source["in"], source["out"], source["rejected"]) == (10, 7, {"duplicate_id": 3})
    assert all(reject["locator"].endswith("[3]") for reject in rejects)
    by_id = {sample.id: sample for sample in load(tmp_path / "out")}
    again = by_id["000000000000_2~2"]
    assert [triplet.id for triplet in again.triplets] == [f"000000000000_{turn}~2" for turn in range(3)]
    assert [triplet.instruction for triplet in again.triplets] == [f"Question 1.{turn}?" for turn in range(3)]


def test_an_unknown_picture_id_is_a_reject(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    make.add_mimicit(folder)
    path = folder / "LA" / "LA_instructions.json"
    value = json.loads(path.read_text())
    value["data"]["LA_INS_000001"]["image_ids"] = ["LA_IMG_999999999999"]
    path.write_text(json.dumps(value))
    source, rejects = build(tmp_path)
    assert source["rejected"] == {"dangling_reference": 1}
    assert any("LA_IMG_999999999999" in reject["detail"] for reject in rejects)


@pytest.mark.parametrize("base64_text", ["!!!not base64!!!", "AAAA"])
def test_a_broken_base64_picture_is_a_reject(tmp_path: Path, base64_text: str) -> None:
    folder = tmp_path / "raw"
    make.add_mimicit(folder)
    path = folder / "LA" / "LA.json"
    value = json.loads(path.read_text())
    value["LA_IMG_000000000002"] = base64_text
    path.write_text(json.dumps(value))
    source, _ = build(tmp_path)
    assert sum(source["rejected"].values()) == 1
    assert set(source["rejected"]) <= {"bad_base64", "unsupported_media"}


def test_an_unreadable_parquet_fails_before_any_shard(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    (folder / "manifest.jsonl").unlink()
    (folder / "manifest.parquet").write_bytes(b"PAR1" + b"garbage" * 20 + b"PAR1")
    result = mimicit("build", "--src", folder, "--out", tmp_path / "out")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("mimicit: ")
    assert "manifest.parquet" in last
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "out").glob("shard-*"))


def test_keep_going_leaves_out_an_unreadable_source(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    (folder / "sub").mkdir()
    (folder / "sub" / "manifest.parquet").write_bytes(b"PAR1" + b"garbage" * 20 + b"PAR1")
    with pytest.raises(SourceError, match=r"manifest\.parquet"):
        build_shards(folder, tmp_path / "out", BuildConfig(), engine=InProcess())
    manifest = build_shards(folder, tmp_path / "out", BuildConfig(), engine=InProcess(), keep_going=True).manifest
    assert sorted(source["out"] for source in manifest["sources"]) == [0, 1]
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [(reject["scope"], reject["reason"]) for reject in rejects] == [("source", "unreadable_source")]


def test_nothing_to_build_from_says_what_to_bring(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(SourceError, match=r"manifest\.jsonl"):
        build_shards(tmp_path / "raw", tmp_path / "out", BuildConfig(), engine=InProcess())


def test_every_record_rejected_is_an_error_that_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    make.write_manifest(folder, [record(media="none.jpg"), record(id="b", answer="")])
    with pytest.raises(SourceError, match="2 records were rejected"):
        build_shards(folder, tmp_path / "out", BuildConfig(), engine=InProcess())
