"""What is asked about: records from every kind of source, their words, and where the manifest finds their media."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimicit.annotating.facts import Box, Moment
from mimicit.annotating.recipe import read_recipe
from mimicit.annotating.records import Dropped, Record, RecordTable
from mimicit.annotating.wording import Job, record_in_words
from mimicit.errors import SourceError
from mimicit.sources.files.root import Root
from tests.factories import raw as make
from tests.factories import tars
from tests.factories.annotating import RECIPE, Reply, annotate, asked, completion, model_server, pairs_json, rows, sound
from tests.factories.commands import mimicit
from tests.factories.formats import coco, coco_image
from tests.factories.sources import put

pytest.importorskip("openai", reason="comes with the extra 'annotate'")


def records(folder: Path, tmp_path: Path) -> tuple[list[Record | Dropped], RecordTable]:
    table = RecordTable(Root(folder), tmp_path / "records.tmp")
    table.fill(lambda stage, done: None)
    found = list(table.records())
    assert found == list(table.records())  # each time the same
    table.close()
    return found, table


def write_lines(path: Path, *values: Any) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def test_triplets_that_show_the_same_are_one_record_and_loose_files_are_records_too(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("a", "b", "loose"):
        (raw / f"{name}.jpg").write_bytes(make.picture(len(name)))
    make.clip(raw / "clip.mp4")
    (raw / "clip.srt").write_text(
        "1\n00:00:01,000 --> 00:00:02,500\n<i>Hello</i>\nthere\n\n2\n00:00:03,0 --> 00:00:04,0\nBye\n"
    )
    boxes = [{"label": "cat", "bbox": [0.1, 0.1, 0.2, 0.2]}, {"no": "label"}]
    write_lines(
        raw / "own.jsonl",
        {"image": "a.jpg", "answer": "one caption", "boxes": boxes},
        {"image": "b.jpg", "question": "Which?", "answer": "That one."},
        {"image": "a.jpg", "answer": "another caption"},
        {"image": "a.jpg", "answer": "one caption"},
        {"image": ["a.jpg", "b.jpg"], "question": "What changed?", "answer": "All."},
        {"question": "Without a picture?", "answer": "Yes."},
        {"image": "gone.jpg", "answer": "lost"},
    )
    found, table = records(raw, tmp_path)
    kept = [one for one in found if isinstance(one, Record)]
    assert [(len(one.media), one.captions, [question for question, _ in one.pairs]) for one in kept] == [
        (1, ("one caption", "another caption"), []),
        (1, (), ["Which?"]),
        (2, (), ["What changed?"]),
        (0, (), ["Without a picture?"]),
        (1, (), []),
        (1, (), []),
    ]
    assert [one.id for one in kept[4:]] == ["media/clip.mp4", "media/loose.jpg"]
    assert kept[4].moments == (Moment(1.0, 2.5, "Hello there"), Moment(3.0, 4.0, "Bye"))
    assert [(box.label, box.box) for box in kept[0].boxes] == [("cat", (0.1, 0.1, 0.2, 0.2))]
    assert table.triplets == 7 and [one.reason for one in table.dropped] == ["missing_file"]
    assert len({one.id for one in kept}) == len(kept)


def test_boxes_of_coco_are_joined_to_the_captions_of_their_picture(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in (9, 10):
        put(raw, f"val2017/{number:012d}.jpg", make.picture(number))
    images = [coco_image(9), coco_image(10) | {"width": None}, coco_image(11)]
    put(raw, "annotations/captions_val2017.json", coco(images, [{"image_id": 9, "id": 1, "caption": "A cat."}]))
    boxes = [
        {"id": 1, "image_id": 9, "category_id": 17, "bbox": [0, 16, 12, 20]},
        {"id": 2, "image_id": 10, "category_id": 18, "bbox": [1, 2, 3, 4]},
        {"id": 3, "image_id": 9, "category_id": 18, "bbox": [16, 8, 12, 16]},
        {"id": 4, "image_id": 11, "category_id": 18, "bbox": [1, 2, 3, 4]},
        {"id": 5, "image_id": 9, "category_id": 99, "bbox": [1, 2, 3, 4]},
        {"id": 6, "image_id": 9, "category_id": 17, "bbox": [1, 2, 3]},
        "no annotation",
    ]
    categories = [{"id": 17, "name": "cat", "supercategory": "animal"}, {"id": 18, "name": "dog"}, "none"]
    put(raw, "annotations/instances_val2017.json", {**coco(images, boxes), "categories": categories})
    found, table = records(raw, tmp_path)
    first, second = (one for one in found if isinstance(one, Record))
    assert first.captions == ("A cat.",) and second.captions == ()
    assert first.boxes == (Box("cat", (0.0, 0.5, 0.25, 0.625)), Box("dog", (0.3333, 0.25, 0.25, 0.5)))
    assert second.boxes == (Box("dog", (1.0, 2.0, 3.0, 4.0)),)  # in pixels, for the size is not told
    (said,) = (note for note in table.notes if "boxes" in note)
    left_out = "2 malformed, 1 missing_file, 1 unknown_category"
    assert said == f"annotations/instances_val2017.json: 3 boxes; left out: {left_out}"
    job = Job(number=0, record=first, language="English", neighbours=(), beside=())
    assert "dog (middle)" in record_in_words(job, read_recipe("detail"))


def test_damaged_boxes_end_the_run_and_other_files_are_named(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make.clip(put(raw, "clip.mp4", b""))
    put(raw, "clip.srt", b"1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    put(raw, "counts.json", {"total": 3})
    _, table = records(raw, tmp_path)
    (said,) = (note for note in table.notes if "not used" in note)
    assert said.startswith("counts.json: not used: a JSON object with total")
    boxes = [{"id": 1, "image_id": 9, "category_id": 17, "bbox": [0, 0, 1, 1]}]
    whole = json.dumps({**coco([coco_image(9)], boxes), "categories": [{"id": 17, "name": "cat"}]})
    put(raw, "instances_val2017.json", whole[:-5])
    with pytest.raises(SourceError, match=r"instances_val2017.json: not valid JSON .* correct it, or move it away"):
        records(raw, tmp_path)


def test_a_picture_that_a_table_or_a_document_names_is_no_loose_one(tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "data"
    raw.mkdir(parents=True)
    for name in "abcd":
        (raw / f"{name}.jpg").write_bytes(make.picture(ord(name)))
    cells = [{"bytes": None, "path": "a.jpg"}, {"bytes": (raw / "b.jpg").read_bytes(), "path": "b.jpg"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind), "text": ["a cat", "a dog"]}), raw / "t.parquet")
    write_lines(raw / "manifest.jsonl", {"document": [{"media": "c.jpg"}, {"text": "Look!"}]})
    found, table = records(tmp_path / "raw", tmp_path)
    assert [one.captions for one in found if isinstance(one, Record)] == [("a cat",), ("a dog",), ()]
    assert found[-1].id == "media/data/d.jpg"
    assert [one.reason for one in table.dropped] == ["document"]


def test_pictures_inside_other_files_are_copied_and_built_from(tmp_path: Path) -> None:
    """A tar of samples, and MIMIC-IT files that name pictures by their ids."""
    raw = tmp_path / "raw"
    raw.mkdir()
    picture = make.picture(1)
    tars.put_tar(raw, "part.tar", [("x.jpg", picture), ("x.txt", b"a cat in a tar")])
    instruction = {"instruction": "What is it?", "answer": "A dog.", "image_ids": ["LA_IMG_1"], "rel_ins_ids": []}
    lost = {**instruction, "image_ids": ["LA_IMG_2"]}
    data = {"LA_INS_1": instruction, "LA_INS_2": lost}
    (raw / "LA_instructions.json").write_text(json.dumps({"meta": {}, "data": data}))
    (raw / "LA.json").write_text(json.dumps({"LA_IMG_1": base64.b64encode(make.picture(2)).decode()}))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("{% endfor %}", "{% endfor %}{{ known_pairs }}"))
    out = tmp_path / "out"
    with model_server() as server:
        summary = annotate(raw, out, recipe, server)
    assert summary["written"] == 2 and summary["reasons"] == {"dangling_reference": 1}
    names = {row["media"][0] for row in rows(out)}
    assert all(name.startswith("pictures/") and (out / name).is_file() for name in names) and len(names) == 2
    assert not (out / "media").exists() and "allow_root" not in (out / "mimicit.toml").read_text()
    built = mimicit("build", "--src", out, "--out", tmp_path / "shards", "--json")
    assert built.returncode == 0 and json.loads(built.stdout)["totals"]["samples"] == 4


def test_a_model_that_sees_is_sent_the_pictures_and_frames(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.jpg").write_bytes(make.picture(1))
    (raw / "broken.jpg").write_bytes(make.picture(2)[:300])
    make.clip(raw / "clip.mp4")
    with model_server() as server:
        server.reply = lambda body, number: completion(
            pairs_json(("What is shown here?", f"Thing number {number} here."))
        )
        summary = annotate(raw, tmp_path / "out", Path("look"), server)
        again = annotate(raw, tmp_path / "out", Path("look"), server)
        shown = sorted(
            [part["type"] for part in body["messages"][-1]["content"]].count("image_url") for body in server.requests
        )
        url = server.requests[0]["messages"][-1]["content"][0]["image_url"]["url"]
    assert shown == [1, 8] and len(server.requests) == 2 and again["requests"] == 0
    assert base64.b64decode(url.removeprefix("data:image/jpeg;base64,")).startswith(b"\xff\xd8")
    assert summary["written"] == 2 and summary["reasons"] == {"truncated_image": 1}
    assert {tuple(row["media"]) for row in rows(tmp_path / "out")} == {("media/a.jpg",), ("media/clip.mp4",)}


def test_translation_asks_once_for_each_language_and_for_as_many_pairs(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.jpg").write_bytes(make.picture(1))
    write_lines(raw / "own.jsonl", {"image": "a.jpg", "question": "Where is the cat?", "answer": "On the mat."})
    said = {"French": ("Où est le chat ?", "Sur le tapis."), "German": ("Wo ist die Katze?", "Auf der Matte.")}
    said["Spanish"] = ("¿Dónde está el gato?", "En la alfombra.")

    def reply(body: dict[str, Any], number: int) -> Reply:
        system = body["messages"][0]["content"]
        assert "Put each of the 1 pairs" in system and "Answer: On the mat." in asked(body)
        return completion(pairs_json(next(pair for language, pair in said.items() if language in system)))

    with model_server() as server:
        server.reply = reply
        annotate(raw, tmp_path / "out", Path("translation"), server)
    assert [(row["id"], row["instruction"], row["meta"]["language"]) for row in rows(tmp_path / "out")] == [
        (
            f"own/{rows(tmp_path / 'out')[0]['meta']['record'].partition('/')[2]}@{language}#0",
            said[language][0],
            language,
        )
        for language in ("French", "German", "Spanish")
    ]


TALK = pairs_json(("What is it?", "It is a cat."), ("What colour has it?", "It is grey."))
QUIZ = '{"pairs": [{"instruction": "Which animal?", "answer": "A cat", "choices": ["A cat", "A dog"]}]}'


@pytest.mark.parametrize(
    ("name", "said", "relation"), [("conversation", TALK, "conversation"), ("multiple-choice", QUIZ, None)]
)
def test_build_takes_every_form(tmp_path: Path, name: str, said: str, relation: str | None) -> None:
    from mimicit import load

    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.jpg").write_bytes(make.picture(1))
    write_lines(raw / "own.jsonl", {"image": "a.jpg", "answer": "a grey animal"})
    with model_server() as server:
        server.reply = lambda body, number: completion(said)
        annotate(raw, tmp_path / "out", Path(name), server, "--report")
    out = tmp_path / "out"
    built = mimicit("build", "--src", out, "--config", out / "mimicit.toml", "--strict", "--out", tmp_path / "shards")
    assert built.returncode == 0, built.stderr
    last = list(load(tmp_path / "shards"))[-1]
    assert [triplet.relation for triplet in last.context] == ([relation] if relation else [])
    assert last.query.answer == ("It is grey." if relation else "A cat") and last.meta["recipe"] == name
    assert "<image>" not in last.query.instruction + last.query.answer


def neighbouring(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    raw.mkdir()
    told = (
        "a red bus at a stop",
        "a cat on a sofa",
        "a red bus on a street",
        "a cat on a bed",
        "",
        "a red bus in town",
    )
    for number in range(len(told)):
        (raw / f"{number}.jpg").write_bytes(make.picture(number))
    write_lines(
        raw / "own.jsonl", *({"id": n, "image": f"{n}.jpg", "answer": text} for n, text in enumerate(told) if text)
    )
    return raw


@pytest.mark.parametrize("by", ["words", "picture"])
def test_neighbours_are_shown_together_and_their_pairs_are_related(tmp_path: Path, by: str) -> None:
    raw = neighbouring(tmp_path)
    recipe = tmp_path / "recipe.toml"
    more = f'neighbours = 2\nneighbours_by = "{by}"\n'
    recipe.write_text(
        RECIPE.replace("template = '''", more + "template = '''{% for words in neighbours %}~{{ words }}\n{% endfor %}")
    )
    with model_server() as server:
        server.reply = lambda body, number: (
            completion('{"pairs": []}') if body["messages"][1]["content"].endswith("bed") else sound(body)
        )
        annotate(raw, tmp_path / "out", recipe, server)
        told = {asked(body).rpartition("\n")[2]: asked(body) for body in server.requests if len(body["messages"]) == 2}
    assert len(told) == 5 and all(words.count("~") == 2 for words in told.values())
    related = {row["id"]: row["related"] for row in rows(tmp_path / "out")}
    assert set().union(*related.values()) <= set(related)  # none of a record that was rejected
    assert all(not id.startswith("own/3#") for id in related)
    if by == "words":
        assert told["- a red bus at a stop"].startswith("~- a red bus ")
        assert related["own/0#0"] == [
            "own/0#1",
            *(
                f"own/{n}#{pair}"
                for n in ((2, 5) if "street\n~" in told["- a red bus at a stop"] else (5, 2))
                for pair in (0, 1)
            ),
        ]
    else:
        assert len(related["own/0#0"]) >= 3


def test_batch_files_go_out_and_come_back(tmp_path: Path) -> None:
    raw, out = neighbouring(tmp_path), tmp_path / "out"
    recipe, batch, back = tmp_path / "recipe.toml", tmp_path / "batch.jsonl", tmp_path / "back.jsonl"
    recipe.write_text(RECIPE)
    with model_server() as server:
        written = annotate(raw, out, recipe, server, "--batch-out", str(batch))
        lines = [json.loads(line) for line in batch.read_text().splitlines()]
        assert written == {"requests": 5, "files": [str(batch)]}
        assert {line["url"] for line in lines} == {"/v1/chat/completions"} and not (out / "manifest.jsonl").exists()
        results = [
            {
                "custom_id": line["custom_id"],
                "response": {"status_code": 200, "body": json.loads(sound(line["body"]).body)},
            }
            for line in lines
        ]
        results[3]["response"] = {"status_code": 500, "body": {}}
        write_lines(back, *reversed(results), results[0])  # in any order, one of them twice
        summary = annotate(raw, out, recipe, server, "--batch-in", str(back), code=1)
        assert server.requests == [] and summary["written"] == 4
        assert summary["reasons"] == {"not_asked": 1, "unfit": 1} and summary["tokens"]["input"] == 400
        again = annotate(raw, out, recipe, server, "--batch-out", str(batch))
        assert again["requests"] == 1 and json.loads(batch.read_text())["custom_id"] == lines[3]["custom_id"]
        whole = annotate(raw, out, recipe, server)
        assert len(server.requests) == 1 == whole["requests"] and whole["written"] == 5
        direct = annotate(raw, tmp_path / "direct", recipe, server)
        assert direct["requests"] == 5
    assert (tmp_path / "direct" / "manifest.jsonl").read_bytes() == (out / "manifest.jsonl").read_bytes()
    back.write_text('{"custom_id": "../x"}\n')
    said = annotate(raw, out, recipe, server, "--batch-in", str(back), code=1)["error"]
    assert f"{back}:1: no answer to a request" in said


def test_a_judge_drops_what_it_scores_low(tmp_path: Path) -> None:
    raw, recipe = neighbouring(tmp_path), tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)

    def reply(body: dict[str, Any], number: int) -> Reply:
        if body["model"] != "judge":
            return sound(body)
        words = asked(body)
        assert "Pair 1\nInstruction: " in words and "Pair 2\n" in words and words.startswith("- a ")
        return completion("no idea") if "bed" in words else completion('{"scores": [5, 2]}')

    with model_server() as server:
        server.reply = reply
        summary = annotate(raw, tmp_path / "out", recipe, server, "--judge", "judge")
        again = annotate(raw, tmp_path / "out", recipe, server, "--judge", "judge", "--judge-least", "2")
        assert again["requests"] == 0 and again["kept"] == 8
    assert (summary["kept"], summary["pair_reasons"]) == (4, {"judged": 6})
    assert {row["meta"]["judge_score"] for row in rows(tmp_path / "out")} == {5.0, 2.0}
