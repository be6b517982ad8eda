"""Links in the input: passed over with one word of advice, or followed to what is allowed and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimicit.errors import RejectedError, SourceError, UsageError
from mimicit.loading import load
from mimicit.sources.files.root import Root
from tests.corpus.case import BLUE, GREEN, RED, Colour, picture, seen_colour
from tests.factories.commands import mimicit
from tests.factories.sources import put


def talk(path: str, answer: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": answer}]
    return {"id": answer, "image": path, "conversations": turns}


def hub(cache: Path, **files: bytes) -> Path:
    """A snapshot in a cache of the Hub with these files; underscores in names stand for dots."""
    snapshot = cache / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for number, (name, content) in enumerate(files.items()):
        put(cache, f"blobs/{number:040x}", content)
        (snapshot / name.replace("_", ".")).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def table(colour: Colour) -> bytes:
    data = pa.BufferOutputStream()
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": picture(colour), "path": "a.png"}], struct)
    pq.write_table(pa.table({"image": pictures, "question": ["q"], "answer": ["in a table"]}), data)
    return data.getvalue().to_pybytes()


def run(src: Path, out: Path, *options: str | Path) -> tuple[int, str]:
    result = mimicit("build", "--src", src, "--out", out, "--context", "none", *options)
    return result.returncode, result.stdout + result.stderr


def shown(out: Path) -> dict[str, Colour]:
    return {sample.triplets[-1].answer: seen_colour(sample.media[0].data[0]) for sample in load(out)}


def names(root: Root) -> list[str]:
    return [path for path, _ in root.walk()]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Pictures in ``coco``, and ``raw`` with records that name them through a link."""
    put(tmp_path, "coco/train2017/1.png", picture(RED))
    put(tmp_path, "coco/train2017/2.png", picture(GREEN))
    put(tmp_path, "secret/3.png", picture(BLUE))
    put(tmp_path, "raw/llava.json", [talk("coco/train2017/1.png", "red"), talk("coco/train2017/2.png", "green")])
    (tmp_path / "raw" / "coco").symlink_to(tmp_path / "coco")
    return tmp_path


def test_links_are_passed_over_with_the_options_that_follow_them(place: Path) -> None:
    put(place, "raw/own.png", picture(BLUE))
    put(place, "raw/own.txt", "own")
    code, output = run(place / "raw", place / "out")
    assert code == 0
    assert output.count("passed over") == 1
    assert "1 symbolic link was passed over, such as coco; to read what they lead to, add" in output
    assert f"add --follow-links --allow-root {place}/coco" in output
    assert shown(place / "out") == {"own": BLUE}


def test_links_to_allowed_folders_are_followed(place: Path) -> None:
    code, output = run(place / "raw", place / "out", "--follow-links", "--allow-root", place / "coco")
    assert (code, shown(place / "out")) == (0, {"red": RED, "green": GREEN}), output
    assert "passed over" not in output
    manifest = json.loads((place / "out" / "manifest.json").read_text())
    assert manifest["config"]["allow_root"] == [str(place / "coco")]
    assert manifest["input"]["files"] == 3
    put(place, "coco/train2017/2.png", picture(BLUE))  # what links lead to is part of the input
    code, output = run(place / "raw", place / "out", "--follow-links", "--allow-root", place / "coco")
    assert (code, "another input" in output) == (1, True)


def test_links_to_other_places_are_named_and_not_followed(place: Path) -> None:
    (place / "raw" / "secret").symlink_to(place / "secret")
    put(place, "raw/llava.json", [talk("coco/train2017/1.png", "red"), talk("secret/3.png", "secret")])
    code, output = run(place / "raw", place / "out", "--follow-links", "--allow-root", place / "coco")
    assert (code, shown(place / "out")) == (0, {"red": RED}), output
    assert f"such as secret; to read what they lead to, add --allow-root {place}/secret" in output
    found = pq.read_table(place / "out" / "rejects.parquet").to_pylist()
    assert {(row["reason"], row["id"]) for row in found} >= {("outside_root", "secret"), ("unusable_file", "")}


def test_records_that_need_links_say_which_options_follow_them(place: Path) -> None:
    code, output = run(place / "raw", place / "out")
    assert code == 1
    assert "no record is left: 2 records were rejected (2 as outside_root); the first is llava.json[0]" in output
    assert f"to follow it, add --follow-links --allow-root {place}/coco" in output


def test_a_build_of_nothing_but_links_says_so(place: Path) -> None:
    (place / "raw" / "llava.json").rename(place / "coco" / "llava.json")
    code, output = run(place / "raw", place / "out")
    assert code == 1
    assert "nothing to build from; 1 symbolic link was passed over" in output
    assert f"--follow-links --allow-root {place}/coco" in output


@pytest.mark.parametrize("src", ["hub", "hub/snapshots", "hub/snapshots/0123abc", "main"])
def test_a_snapshot_of_the_hub_is_read_once(tmp_path: Path, src: str) -> None:
    hub(tmp_path / "hub", train_parquet=table(RED), a_png=picture(GREEN), a_txt=b"beside")
    (tmp_path / "main").symlink_to("hub/snapshots/0123abc")
    code, output = run(tmp_path / src, tmp_path / "out", "--follow-links")
    assert (code, shown(tmp_path / "out")) == (0, {"in a table": RED, "beside": GREEN}), output
    assert len(load(tmp_path / "out")) == 2


def test_a_link_to_a_snapshot_reaches_its_blobs(tmp_path: Path) -> None:
    snapshot = hub(tmp_path / "hub", a_png=picture(GREEN), a_txt=b"beside")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "set").symlink_to(snapshot)
    code, output = run(tmp_path / "raw", tmp_path / "out", "--follow-links", "--allow-root", snapshot)
    assert (code, shown(tmp_path / "out")) == (0, {"beside": GREEN}), output


def test_walks_end_and_list_data_once(tmp_path: Path) -> None:
    put(tmp_path, "raw/a/data.json", {})
    put(tmp_path, "raw/a/1.png", b"x")
    put(tmp_path, "out/b/2.png", b"x")
    put(tmp_path, "out/b/rows.csv", "x")
    raw = tmp_path / "raw"
    (raw / "a" / "up").symlink_to("..")
    (raw / "a" / "self").symlink_to(".")
    (raw / "again.json").symlink_to("a/data.json")
    (raw / "other").symlink_to("a")
    (raw / "1.png").symlink_to("a/1.png")
    (raw / "one").symlink_to(tmp_path / "out" / "b")
    (raw / "two").symlink_to(tmp_path / "out" / "b")
    (raw / "lost").symlink_to("nowhere")
    (raw / "round").symlink_to("round")
    (tmp_path / "out" / "b" / "back").symlink_to(raw)
    (tmp_path / "out" / "b" / "c").symlink_to(tmp_path / "out" / "d")
    put(tmp_path, "out/d/3.png", b"x")
    (tmp_path / "out" / "d" / "b").symlink_to(tmp_path / "out" / "b")
    root = Root(raw, follow_links=True, allow=[tmp_path / "out"])
    skipped: list[tuple[str, str]] = []
    listed = [path for path, _ in root.walk(lambda path, why: skipped.append((path, why)))]
    assert listed == [
        *("a/1.png", "a/data.json", "1.png", "one/2.png", "one/rows.csv", "other/1.png", "two/2.png"),
        *("one/c/3.png", "two/c/3.png"),
    ]
    assert {path for path, _ in skipped} >= {"a/up", "a/self", "lost", "round", "one/back", "one/c/b", "other/up"}
    for path in listed:
        with root.open(path) as file:
            assert file.read() in (b"x", b"{}")
    assert root.links_advice(skipped) == ""


def test_a_link_that_changes_is_not_followed_out(tmp_path: Path) -> None:
    put(tmp_path, "good/1.png", b"good")
    put(tmp_path, "secret/1.png", b"secret")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "pics").symlink_to(tmp_path / "good")
    root = Root(tmp_path / "raw", follow_links=True, allow=[tmp_path / "good"])
    with root.open("pics/1.png") as file:
        assert file.read() == b"good"
    (tmp_path / "good").rename(tmp_path / "moved")
    (tmp_path / "good").symlink_to(tmp_path / "secret")
    with pytest.raises(RejectedError, match="outside_root"):
        root.open("pics/1.png")


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret.txt", "/proc/self/environ", "sub/../../secret.txt"])
def test_no_link_leads_elsewhere(tmp_path: Path, target: str) -> None:
    put(tmp_path, "secret.txt", b"secret")
    (tmp_path / "raw" / "sub").mkdir(parents=True)
    (tmp_path / "raw" / "x.txt").symlink_to(target)
    root = Root(tmp_path / "raw", follow_links=True)
    assert names(root) == []
    with pytest.raises(RejectedError, match="outside_root"):
        root.open("x.txt")


def test_options_that_make_no_sense_are_refused(place: Path) -> None:
    code, output = run(place / "raw", place / "out", "--allow-root", place / "coco")
    assert (code, "--allow-root goes with --follow-links" in output) == (2, True)
    code, output = run(place / "raw", place / "out", "--follow-links", "--allow-root", place / "none")
    assert (code, "none: no such folder; give --allow-root a folder" in output) == (1, True)
    with pytest.raises(SourceError, match="no such folder"):
        Root(place / "raw", follow_links=True, allow=[place / "none"])
    for new in ("..", "a/../../b", "/etc", str(place)):
        with pytest.raises(UsageError, match="must be a folder in --src"):
            Root(place / "raw", media_roots={"x": new})
    code, output = run(place / "raw", place / "out", "--media-root", "nothing")
    assert (code, "must be OLD=NEW" in output) == (2, True)


def test_media_roots_map_the_beginnings_of_paths(place: Path) -> None:
    put(place, "set/llava.json", [talk("gs://b/x/1.png", "red"), talk("vg/1.png", "green"), talk("gone/1.png", "lost")])
    for folder, colour in (("one", RED), ("two", GREEN), ("three", BLUE)):
        put(place, f"set/{folder}/1.png", picture(colour))
    options = ("--media-root", f"gs://b/x={place}/set/one", "--media-root", "vg=two")
    code, output = run(place / "set", place / "out", *options)
    assert (code, shown(place / "out")) == (0, {"red": RED, "green": GREEN}), output
    assert "llava: media found: 2 as --media-root maps them" in output
    manifest = json.loads((place / "out" / "manifest.json").read_text())
    assert manifest["sources"][0]["found"] == {"media_root": 2}
    assert manifest["sources"][0]["rejected"] == {"ambiguous_path": 1}


def test_each_source_may_have_media_roots_of_its_own(place: Path) -> None:
    """They win over those of the build; what is not in the folder that a path is mapped to is no picture elsewhere."""
    for name, colour in (("one", RED), ("two", GREEN)):
        put(place, f"set/{name}.json", [talk("x/1.png", name), talk(f"x/{name}.png", f"missing {name}")])
        put(place, f"set/pictures/{name}/1.png", picture(colour))
        put(place, f"set/others/{name}.png", picture(BLUE))
    sources = (
        '[[source]]\npath = "one.json"\n',
        '[[source]]\npath = "two.json"\nmedia_root = { x = "pictures/two" }\n',
    )
    put(place, "conf.toml", '[media_root]\nx = "pictures/one"\n' + "".join(sources))
    code, output = run(place / "set", place / "out", "--config", place / "conf.toml")
    assert (code, shown(place / "out")) == (0, {"one": RED, "two": GREEN}), output
    manifest = json.loads((place / "out" / "manifest.json").read_text())
    assert [source["rejected"] for source in manifest["sources"]] == [{"missing_file": 1}] * 2
    assert [source.get("media_root") for source in manifest["config"]["sources"]] == [None, {"x": "pictures/two"}]


def test_the_file_with_the_options_may_have_them_too(place: Path) -> None:
    text = f'follow_links = true\nallow_root = ["{place}/coco"]\n[media_root]\n"train" = "coco/train2017"\n'
    put(place, "raw/llava.json", [talk("train/1.png", "red")])
    put(place, "conf.toml", text)
    code, output = run(place / "raw", place / "out", "--config", place / "conf.toml")
    assert (code, shown(place / "out")) == (0, {"red": RED}), output


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ('follow_links = true\nallow_root = ["/etc"]', "--allow-root"),
        ('follow_links = true\nallow_root = ["{src}/../coco"]', "--allow-root"),
        ('text_embedder = "transformers:/etc"', "--text-embedder"),
        ('text_embedder = "transformers:{src}/model"', "--text-embedder"),  # a link that leads out
        ('image_embedder = "open_clip:ViT-B-32:laion2b_s34b_b79k"', "--image-embedder"),
        ('image_embedder = "open_clip:ViT-B-32:/etc/hosts"', "--image-embedder"),
        ('text_embedder = "open_clip:xlm-roberta-base-ViT-B-32:{src}/llava.json"', "--text-embedder"),  # asks the Hub
    ],
)
def test_options_that_come_with_the_data_do_not_lead_out(place: Path, line: str, option: str) -> None:
    (place / "raw" / "model").symlink_to(place / "coco")
    put(place, "raw/mimicit.toml", line.replace("{src}", str(place / "raw")))
    code, output = run(place / "raw", place / "out")
    assert code == 2
    assert "leads out of --src, which a file that lies in it may not" in output
    assert option in output
    assert not os.path.exists(place / "out")


@pytest.mark.parametrize(
    ("option", "value"), [("max_memory_bytes", 1 << 40), ("max_pixels", 1 << 40), ("max_seconds", 3600)]
)
def test_options_that_come_with_the_data_do_not_raise_limits(place: Path, option: str, value: int) -> None:
    put(place, "raw/mimicit.toml", f"{option} = {value}")
    code, output = run(place / "raw", place / "out")
    assert code == 2
    assert f"mimicit.toml: {option} = {value} is more than the usual" in output
    code, output = run(place / "raw", place / "out", "--follow-links", "--config", place / "raw" / "mimicit.toml")
    assert "is more than the usual" not in output
