"""Rows of JSON Lines, JSON, CSV, parquet and Arrow: columns, choices, text as Python writes it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.case import BLUE, GREEN, RED, Case, Colour, Says, picture
from tests.corpus.media import clip
from tests.factories.sources import put, put_lines
from tests.factories.tars import put_tar


def put_pictures(root: Path, folder: str = "") -> None:
    """``1.png``, ``2.png`` and ``3.png``: red, green and blue."""
    for number, colour in enumerate((RED, GREEN, BLUE), 1):
        put(root, f"{folder}/{number}.png".lstrip("/"), picture(colour))


def base64_of(colour: Colour) -> str:
    return base64.b64encode(picture(colour)).decode()


def nan_in_a_tar(root: Path) -> None:
    members = [
        ("0.png", picture(RED)),
        ("0.json", {"caption": "red", "similarity": math.nan, "sizes": [1, math.inf]}),
        ("1.png", picture(GREEN)),
        ("1.json", {"caption": "green", "similarity": 0.3}),
        ("2.png", picture(BLUE)),
        ("2.json", {"caption": math.nan}),
    ]
    put_tar(root, "0.tar", members)


def nan_in_lines(root: Path) -> None:
    put_pictures(root)
    rows = [
        {"id": "a", "image": "1.png", "instruction": "What?", "answer": "red", "score": math.nan},
        {"id": "b", "image": "2.png", "instruction": "What?", "answer": "green", "score": -math.inf},
        {"id": "c", "image": "3.png", "instruction": math.nan, "answer": "blue"},
        {"id": "d", "image": math.nan, "instruction": "What?", "answer": "blue"},
        {"id": "e", "image": "3.png", "instruction": "What?", "answer": math.nan},
        {"image": "3.png", "instruction": "NaN?", "answer": "NaN", "score": math.nan},
    ]
    put_lines(root, "d.json", rows)  # its very first line is one that strict parsers refuse


def nan_in_an_array(root: Path) -> None:
    put_pictures(root)
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It is Infinity."}]
    rows = [{"id": "a", "image": "1.png", "conversations": talk, "scores": {"clip": math.nan}}]
    put(root, "d.json", json.dumps(rows))


def nan_in_a_sidecar(root: Path) -> None:
    put(root, "1.png", picture(RED))
    put(root, "1.json", {"instruction": "What?", "answer": "red", "score": math.nan})
    put(root, "2.png", picture(GREEN))
    put(root, "2.json", {"score": math.inf})
    put(root, "2.txt", "green")


def nan_in_instructions(root: Path) -> None:
    put(root, "LA.json", {"LA_IMG_1": base64_of(RED), "LA_IMG_2": math.nan})
    record = {"instruction": "What?", "answer": "red", "image_ids": ["LA_IMG_1"], "rel_ins_ids": []}
    data = {"LA_INS_1": record | {"score": math.nan}, "LA_INS_2": record | {"answer": math.nan}}
    put(root, "LA_instructions.json", {"meta": {"version": math.nan}, "data": data})


def rows(*records: dict[str, Any], name: str = "d.jsonl") -> Callable[[Path], None]:
    """The ``records`` beside three pictures; as JSON Lines or, by the ``name``, as an array."""

    def write(root: Path) -> None:
        put_pictures(root)
        put_lines(root, name, records) if name.endswith("jsonl") else put(root, name, list(records))

    return write


def csv(text: str, name: str = "d.csv") -> Callable[[Path], None]:
    def write(root: Path) -> None:
        put_pictures(root)
        put(root, name, text)

    return write


DATASETS_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(types: dict[str, pa.DataType] | None = None, **columns: Sequence[Any]) -> Callable[[Path], None]:
    """A table of ``columns``, some with their ``types``."""

    def write(root: Path) -> None:
        arrays = {name: pa.array(values, (types or {}).get(name)) for name, values in columns.items()}
        pq.write_table(pa.table(arrays), root / "d.parquet")

    return write


def structs(root: Path) -> None:
    """Pictures as scripts write them, without saying the types: a path that is always null, or other fields beside."""
    data = picture(RED)
    cells = {
        "null-path": {"bytes": data, "path": None},
        "path-first": {"path": "1.png", "bytes": data},
        "size": {"bytes": data, "path": None, "width": 64, "height": 48},
        "bytes-alone": {"bytes": data},
    }
    for name, cell in cells.items():
        table = pa.table({"images": [[cell, cell]], "texts": [[{"user": "Q?", "assistant": name}]]})
        pq.write_table(table, root / f"{name}.parquet")
    unknown = pa.table({"images": [[{"content": data}]], "texts": [[{"user": "Q?", "assistant": "unknown"}]]})
    pq.write_table(unknown, root / "unknown.parquet")


ONE, TWO, THREE = "1.png", "2.png", "3.png"
ASKED = (Says("red", (RED,), "Q?"),)
PETS = Says("dog", (RED,), "Q?\nA. cat\nB. dog")
PETS_AC = Says("dog", (RED,), "Q?\nA. cat\nC. dog")
COWS = Says("dog", (RED,), "Q?\nA. cat\nB. dog\nC. cow")


def choice(name: str, fields: dict[str, Any], says: tuple[Says, ...] = (PETS,), rejects: int = 0) -> Case:
    """A record with choices, and where it is refused a good one beside it."""
    good = [{"image": ONE, "question": "Q?", "choices": ["cat", "dog"], "answer": "dog"}] * bool(rejects)
    write = rows({"id": "x", "image": ONE, "question": "Q?"} | fields, *good)
    return Case(name=f"choices-{name}", write=write, says=says, rejects={"malformed": 1} if rejects else {})


CHOICES = [
    choice("by-number", {"choices": ["cat", "dog"], "answer": 1}),
    choice("by-number-as-text", {"options": ["cat", "dog"], "answer": "1"}),
    choice("by-letter", {"options": "['cat', 'dog']", "answer": "B"}),
    choice("by-text", {"options": '["cat", "dog"]', "answer": "Dog"}),
    choice("by-place", {"choices": ["cat", "dog"], "correct_choice_idx": 1, "direct_answers": "['a dog']"}),
    choice("with-letters", {"options": ["A. cat", "B. dog"], "answer": "(B)"}),
    choice("as-object", {"choices": {"text": ["cat", "dog"], "label": ["A", "B"]}, "answerKey": "B"}),
    choice("in-columns", {"A": "cat", "B": "dog", "C": None, "answer": "B", "hint": "Look."}),
    choice("in-named-columns", {"choice_a": "cat", "choice_b": "dog", "answer": "B"}),
    choice("in-columns-with-small-letters", {"a": "cat", "b": "dog", "c": "cow", "d": None, "answer": "b"}, (COWS,)),
    choice("in-short-columns", {"opa": "cat", "opb": "dog", "answer": "B"}),
    choice("in-columns-with-spaces", {"Option A": "cat", "Option B": "dog", "answer": "B"}),
    choice("in-columns-numbered-from-0", {"a0": "cat", "a1": "dog", "answer": 1}),
    choice("in-columns-numbered-from-1", {"option_1": "cat", "option_2": "dog", "answer": "2"}),
    choice("in-numbered-columns-by-place", {"option_1": "cat", "option_2": "dog", "answer_idx": 1}),
    choice("in-numbered-columns-from-0-or-1", {"option_1": "cat", "option_2": "dog", "answer": "1"}, rejects=1),
    choice("by-number-beside-a-null", {"choices": ["cat", None, "dog"], "answer": 2}, (PETS_AC,)),
    choice("with-letters-before-colons", {"Choice A": " A:cat ", "Choice B": " B:dog ", "answer": " B:dog "}),
    choice("labelled-by-numbers", {"choices": {"text": ["cat", "dog"], "label": ["1", "2"]}, "answerKey": "2"}),
    choice("in-an-object-by-numbers", {"options": {"1": "cat", "2": "dog"}, "answer": 2}),
    choice("beside-an-id", {"choices": ["cat", "dog"], "answer": "dog", "answer_id": 0}),
    choice("twice-the-same", {"choices": ["cat", "dog"], "answer": "dog", "answer_idx": "B"}),
    choice("place-beside-an-explanation", {"choices": ["cat", "dog"], "answer": "It barks.", "answer_idx": 1}),
    choice("place-and-text-differ", {"choices": ["cat", "dog"], "answer": "cat", "answer_idx": "B"}, rejects=1),
    choice(
        "place-of-a-number",
        {"choices": ["1", "2", "3"], "correct_choice_idx": 1},
        (Says("2", (RED,), "Q?\nA. 1\nB. 2\nC. 3"),),
    ),
    choice("numbers-in-numbered-columns", {"option1": "1", "option2": "2", "option3": "3", "answer": "2"}, rejects=1),
    choice(
        "numbers-that-are-no-places",
        {"option1": "10", "option2": "20", "answer": "20"},
        (Says("20", (RED,), "Q?\nA. 10\nB. 20"),),
    ),
    choice("none-but-other-answers", {"answer": "dog", "a1": "hound", "a2": "puppy"}, (Says("dog", (RED,), "Q?"),)),
    choice("none-but-measures", {"answer": "dog", "X": 3, "Y": 5}, (Says("dog", (RED,), "Q?"),)),
    choice("none-but-annotators", {"answer": "dog", "A": ["x"], "B": "y"}, (Says("dog", (RED,), "Q?"),)),
    choice("in-two-columns-by-text", {"A": "cat", "B": "dog", "answer": "dog"}),
    choice("in-two-numbered-columns-or-places", {"a1": "cat", "a2": "dog", "answer": "1"}, rejects=1),
    choice("none", {"options": "[]", "answer": "dog"}, (Says("dog", (RED,), "Q?"),)),
    choice("no-choice", {"choices": ["cat", "dog"], "answer": "fish"}, rejects=1),
    choice("out-of-range", {"choices": ["cat", "dog"], "answer": 2}, rejects=1),
    choice("letter-or-text", {"choices": ["B", "A"], "answer": "A"}, rejects=1),
    choice("printed-by-numpy", {"choices": "['cat' 'dog']", "answer": "A"}, rejects=1),
    Case(
        name="choices-in-a-table-by-hand",
        write=csv(f"Image,Question,A,B,C,Answer\n{ONE},Q?,cat,dog,,B\n"),
        says=(PETS,),
    ),
    Case(
        name="choices-about-numbered-pictures",
        write=parquet(
            dict.fromkeys(("image_1", "image_2", "image_10"), DATASETS_IMAGE),
            question=["Is <image 1> like <image 3> or <image 2>?"],
            options=["['<image 2>', '<image 3>']"],
            answer=["B"],
            image_1=[{"bytes": picture(RED), "path": None}],
            image_10=[{"bytes": picture(BLUE), "path": None}],
            image_2=[{"bytes": picture(GREEN), "path": None}],
        ),
        says=(
            Says(
                "image 3",
                (RED, GREEN, BLUE),
                "Is image 1 like image 3 or image 2?\nA. image 2\nB. image 3",
            ),
        ),
    ),
]

COLUMNS = [
    Case(
        name="columns-of-imagefolder",
        write=rows({"file_name": ONE, "text": "red"}, {"file_name": TWO, "text": "green"}, name="metadata.jsonl"),
        says=(Says("red", (RED,)), Says("green", (GREEN,))),
    ),
    Case(
        name="columns-query-response-images",
        write=rows({"query": "<image>Q?", "response": "red", "images": [ONE]}),
        says=ASKED,
    ),
    Case(name="columns-question-answer", write=rows({"image": ONE, "Question": "Q?", "Answer": "red"}), says=ASKED),
    Case(
        name="columns-prompt-completion",
        write=rows({"image_path": ONE, "prompt": "Q?", "completion": "red"}, name="d.json"),
        says=ASKED,
    ),
    Case(
        name="columns-with-numbers",
        write=rows({"image_10": THREE, "image_2": TWO, "image_1": ONE, "question": "Q?", "answer": "all"}),
        says=(Says("all", (RED, GREEN, BLUE), "Q?"),),
    ),
    Case(
        name="captions-in-a-list",
        write=rows({"image": ONE, "captions": ["red one", "red two"]}, {"image": TWO, "sentences": [{"raw": "green"}]}),
        says=(Says("red one", (RED,)), Says("red two", (RED,)), Says("green", (GREEN,))),
    ),
    Case(
        name="captions-in-a-list-in-parquet",
        write=parquet({"image": DATASETS_IMAGE}, image=[{"bytes": picture(RED), "path": None}], caption=[["a", "b"]]),
        says=(Says("a", (RED,)), Says("b", (RED,))),
    ),
    Case(
        name="answers-of-people",
        write=rows(
            {"image": ONE, "question": "Q?", "answers": [{"answer": "blue"}, {"answer": "red"}, {"answer": "red"}]},
            {"image": TWO, "question": "Q?", "answers": ["red", "green"], "multiple_choice_answer": "green"},
        ),
        says=(Says("red", (RED,), "Q?"), Says("green", (GREEN,), "Q?")),
    ),
    Case(
        name="pictures-as-bytes",
        write=parquet(
            {"image": pa.large_binary()}, image=[picture(RED), None], question=["Q?", "Q?"], answer=["red", "none"]
        ),
        says=(*ASKED, Says("none", (), "Q?")),
    ),
    Case(
        name="pictures-as-lists-of-bytes",
        write=parquet(
            {"images": pa.list_(pa.binary())},
            images=[[picture(RED), picture(GREEN)], [], [picture(BLUE)]],
            question=["Q?"] * 3,
            answer=["two", "none", "one"],
        ),
        says=(Says("two", (RED, GREEN), "Q?"), Says("none", (), "Q?"), Says("one", (BLUE,), "Q?")),
    ),
    Case(
        name="pictures-in-structs-of-all-kinds",
        write=structs,
        says=tuple(Says(name, (RED, RED), "Q?") for name in ("null-path", "path-first", "size", "bytes-alone")),
        rejects={"unsupported_media": 1},
    ),
    Case(
        name="pictures-of-img2dataset",
        write=parquet(
            {"jpg": pa.binary()},
            key=["0", "1"],
            jpg=[picture(RED), None],
            txt=["red", None],
            status=["success", "failed_to_download"],
        ),
        says=(Says("red", (RED,)),),
        rejects={"malformed": 1},
    ),
    Case(
        name="pictures-as-webp-with-txt",
        write=parquet({"webp": pa.binary()}, webp=[picture(RED, "WEBP")], txt=["red"]),
        says=(Says("red", (RED,)),),
    ),
    Case(
        name="pictures-as-base64-in-parquet",
        write=parquet(image=[base64_of(RED)], question=["Q?"], answer=["red"]),
        says=ASKED,
    ),
    Case(
        name="pictures-as-base64-in-lines",
        write=rows(
            {"image": base64_of(RED), "question": "Q?", "answer": "red"},
            {"images": [f"data:image/png;base64,{base64_of(GREEN)}"], "question": "Q?", "answer": "green"},
            {"image": {"url": f"data:image/png;base64,{base64_of(BLUE)}"}, "question": "Q?", "answer": "blue"},
        ),
        says=(*ASKED, Says("green", (GREEN,), "Q?"), Says("blue", (BLUE,), "Q?")),
    ),
    Case(
        name="pictures-as-base64-by-hand",
        write=csv(
            "\ufeffindex\timage\tquestion\tA\tB\tanswer\n"
            f"0\t{base64_of(RED)}\tQ é?\tcat\tdog\tB\n1\tdata:image/png;base64,{base64_of(GREEN)}\tQ?\tcat\tdog\tA\n",
            "d.tsv",
        ),
        says=(Says("dog", (RED,), "Q é?\nA. cat\nB. dog"), Says("cat", (GREEN,), "Q?\nA. cat\nB. dog")),
    ),
]


def other_names(root: Path) -> None:
    """One record in each file, under names that published sets use."""
    put_pictures(root)
    records: list[dict[str, Any]] = [
        {"img": ONE, "problem": "A?", "solution": "a"},
        {"filepath": ONE, "text_input": "A?", "text_output": "a"},
        {"image": ONE, "input": "A?", "output": "a"},
        {"img_path": ONE, "question": "A?", "ground_truth": "a"},
        {"image_base64": base64_of(RED), "question": "A?", "target": "a"},
        {"image": TWO, "captions": ["b", "c"]},
        {"image": TWO, "caption": '["b", "c"]'},
        {"image": TWO, "description": "b", "split": "train"},
        {"image_path": TWO, "image_id": "x", "caption_str": "b", "reference_strs": ["b", "c"]},
        {"image": THREE, "caption": "[b] [1, 2]"},
    ]
    for number, record in enumerate(records):
        put(root, f"{number}.jsonl", json.dumps(record) + "\n")
    put(root, "x.csv", f"image,sentences\n{TWO},\"['b', 'c']\"\n")
    put(root, "y.csv", f'image,caption\n{THREE},"[1, 2]"\n')


def called_by_ids(root: Path) -> None:
    """One record in each file that names its medium by what published sets call an id, or by a name alone."""
    for folder, name, colour in (("train2017", f"{7:012d}.png", RED), ("val", "0a4f.png", GREEN), ("v", "x.png", BLUE)):
        put(root, f"{folder}/{name}", picture(colour))
    clip(root / "v" / "v_abc.mp4", RED)
    clip(root / "v" / "video9.mp4", GREEN)
    clip(root / "v" / "vid5.mp4", BLUE)
    records: list[dict[str, Any]] = [
        {"image_id": 7, "question": "Q?", "answer": "coco"},
        {"imageId": "0a4f", "question": "Q?", "answer": "text"},
        {"img_name": "x.png", "image_id": 7, "question": "Q?", "answer": "name"},
        {"image": "x.png", "image_id": 7, "question": "Q?", "answer": "path"},
        {"video_name": "abc", "question": "Q?", "answer": "activity"},
        {"video_id": 9, "question": "Q?", "answer": "msrvtt"},
        {"video_id": 5, "question": "Q?", "answer": "msvd"},
        {"image_id": 8, "question": "Q?", "answer": "nowhere"},
    ]
    for number, record in enumerate(records):
        put(root, f"{number}.json", [record])
    put(root, "t.csv", "image_id,question,answer\n7.0,Q?,float\n")
    put(root, "t.tsv", "gif_name\tquestion\tanswer\nx\tQ?\ttsv\n")
    put(root, "x", "no picture")


def questions_for_evaluation(root: Path) -> None:
    """The questions of POPE, and some without answers beside captions under the same name."""
    put_pictures(root)
    put_lines(root, "pope.json", [{"question_id": 1, "image": ONE, "text": "Is it red?", "label": "yes"}])
    put_lines(root, "questions.jsonl", [{"question_id": 1, "image": TWO, "text": "What is it?", "category": "conv"}])
    put_lines(root, "captions.jsonl", [{"image": THREE, "text": "blue"}])


def named_in_vain(root: Path) -> None:
    """Questions about media that are named in fields that nobody reads; others have such fields for other things."""
    put_pictures(root)
    put(root, "a.csv", f"left,question,answer\n{ONE},Q?,a\nleft.,Q?,words\n")
    put_lines(
        root,
        "b.jsonl",
        [
            {"instruction": "Q?", "answer": "a", "image_url": "https://example.com/a"},
            {"instruction": "Q?", "answer": "a", "frames": [ONE, TWO]},
        ],
    )
    talk = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "a"}]
    put(root, "c.json", [{"id": "a", "frame_dir": "a/b", "conversations": talk}])
    put(root, "d.json", [{"id": "b", "image_caption": "a dog", "source": "x.json", "conversations": talk}])


def around_records(root: Path) -> None:
    """Objects around lists of records, and others that look like them."""
    put_pictures(root)

    def record(image: str, answer: str) -> dict[str, Any]:
        return {"image": image, "question": "Q?", "answer": answer}

    put(root, "a.json", {"version": 1, "info": [{"year": 2020}], "data": [record(ONE, "a"), record(TWO, "b")]})
    put(root, "b.json", json.dumps({"train": [record(ONE, "c")], "val": [record(THREE, "d")]}, indent=1))
    talk = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "e"}]
    put(root, "c.json", {"samples": [{"id": 1, "image": TWO, "conversations": talk}]})
    put(root, "manifest.jsonl", {"id": "page", "document": [{"text": "f"}, {"media": ONE}, {"text": "f"}]})
    put(root, "one-picture.json", {"image": ONE, "qa": [{"instruction": "Q?", "answer": "a"}]})
    put(root, "no-questions.json", {"annotations": [{"image_id": 1, "question_id": 1, "answer": "net"}]})


def lists_side_by_side(root: Path) -> None:
    """The captions of MSR-VTT, and of COCO as Karpathy split them: lists that have the names of a record's fields."""
    put_pictures(root)
    clip(root / "video0.mp4", RED)
    sentences = [{"sen_id": n, "video_id": "video0", "caption": text} for n, text in enumerate("ab")]
    put(root, "a.json", {"videos": [{"video_id": "video0", "url": "x"}], "sentences": sentences})
    images = [{"filename": TWO, "sentences": [{"raw": "c"}, {"raw": "d"}]}, {"filename": THREE, "sentences": []}]
    put(root, "b.json", json.dumps({"images": images, "dataset": "coco"}, indent=1))


def records_by_id(root: Path) -> None:
    """The questions of GQA, a data frame by its index, conversations, and objects that are no records."""
    put_pictures(root)
    named = {ONE: "11", TWO: "n12"}
    for name, id in named.items():
        put(root, f"images/{id}.png", (root / name).read_bytes())
        (root / name).unlink()
    gqa = {"question": "Q?", "answer": "no", "semantic": [{"operation": "select"}], "groups": {"global": None}}
    put(root, "gqa.json", {"07333408": gqa | {"imageId": "11"}, "1": gqa | {"imageId": "n12", "answer": "yes"}})
    frame = {"0": {"image": THREE, "caption": "a"}, "1": {"image": "none.png", "caption": "b"}}
    put(root, "frame.json", json.dumps(frame, indent=1))
    talk = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "talk"}]
    put(root, "talks.json", {"x": {"image": THREE, "conversations": talk}})
    put(root, "services.json", {"web": {"image": "nginx"}, "db": {"image": "postgres"}})
    put(root, "mixed.json", {"1": gqa | {"imageId": "11"}, "version": 1})


def science_questions(root: Path) -> None:
    """ScienceQA, whose pictures are all called ``image.png``, without the last one."""
    put(root, "train/1/image.png", picture(RED))
    put(root, "val/2/image.png", picture(GREEN))
    asked = {"question": "Q?", "choices": ["a", "b"], "answer": 1, "hint": ""}
    splits = {"1": "train", "2": "val", "3": "train"}
    records = {id: {**asked, "image": "image.png", "split": split} for id, split in splits.items()}
    put(root, "problems.json", {**records, "4": {**asked, "image": None, "split": "test"}})


def numbered_folders(root: Path) -> None:
    """A record of each scene; the second was not downloaded, and the third lies in a folder with zeros."""
    put(root, "scene_1/left.png", picture(RED))
    put(root, "scene_0003/right.png", picture(BLUE))
    put_lines(root, "a.jsonl", [{"image": f"scene_{n}/left.png", "question": "Q?", "answer": f"{n}"} for n in (1, 2)])
    put_lines(root, "b/b.jsonl", [{"image": "scene_3/right.png", "question": "Q?", "answer": "3"}])


CASES = [
    Case(
        name="pictures-in-folders-by-split-and-id",
        write=science_questions,
        says=(*(Says("b", (colour,), "Q?\nA. a\nB. b") for colour in (RED, GREEN)), Says("b", (), "Q?\nA. a\nB. b")),
        rejects={"ambiguous_path": 1},
        notes={"held_out": 2},
    ),
    Case(
        name="a-picture-of-the-same-name-in-the-folder-of-another-number",
        write=numbered_folders,
        says=(Says("1", (RED,), "Q?"), Says("3", (BLUE,), "Q?")),
        rejects={"missing_file": 1},
    ),
    Case(
        name="records-by-id",
        write=records_by_id,
        says=(
            Says("no", (RED,), "Q?"),
            Says("yes", (GREEN,), "Q?"),
            Says("a", (BLUE,)),
            Says("talk", (BLUE,), "Q?"),
        ),
        rejects={"missing_file": 1},
        unused=("mixed.json", "services.json"),
    ),
    Case(
        name="lists-of-captions-and-media-side-by-side",
        write=lists_side_by_side,
        says=(*(Says(text, (RED,)) for text in "ab"), *(Says(text, (GREEN,)) for text in "cd")),
        rejects={"empty_answer": 1},
        unused=(THREE,),
    ),
    Case(
        name="questions-and-answers-in-two-lists",
        write=rows(
            {"image": ONE, "questions": ["A?", "B?"], "answers": ["a", "b"]},
            {"image": TWO, "questions": "['C?']", "answers": ["c"]},
            {"image": TWO, "questions": "D?", "answers": ["no", "d", "d"]},
            {"image": THREE, "questions": ["E?", "F?"], "answers": ["e"]},
            {"image": THREE, "questions": ["G?"], "caption": "g"},
        ),
        says=(
            Says("g", (BLUE,)),
            *(Says(text.lower(), (RED,), f"{text}?") for text in "AB"),
            *(Says(text.lower(), (GREEN,), f"{text}?") for text in "CD"),
        ),
        rejects={"malformed": 1},
    ),
    Case(
        name="captions-between-bars",  # as of Flickr30k
        write=csv(f"image_name| comment_number| comment\n{ONE}| 0| Red, green; blue.\n{TWO}| 0| b\n"),
        says=(Says("Red, green; blue.", (RED,)), Says("b", (GREEN,))),
    ),
    Case(
        name="bars-in-a-name-of-a-column",
        write=csv(f"image,caption,tags|en|de|fr\n{ONE},a,b|c\n"),
        says=(Says("a", (RED,)),),
    ),
    Case(
        name="questions-and-answers-in-a-table-by-hand",
        write=csv(f"image,Questions,Answers\n{ONE},A?,a\n"),
        says=(Says("a", (RED,), "A?"),),
    ),
    Case(
        name="lists-of-questions-and-answers-in-a-table-by-hand",
        write=csv(f"image,Questions,Answers\n{ONE},\"['A?', 'B?']\",\"['a', 'b']\"\n"),
        says=(Says("a", (RED,), "A?"), Says("b", (RED,), "B?")),
    ),
    Case(
        name="questions-beside-captions-in-a-table-by-hand",
        write=csv(f"image,Questions,Caption\n{ONE},A?,a\n"),
        says=(Says("a", (RED,)),),
    ),
    Case(
        name="records-inside-an-object",
        write=around_records,
        says=(
            *[Says(name, (RED,), "Q?") for name in "aac"],
            *[Says(name, (GREEN,), "Q?") for name in "be"],
            Says("d", (BLUE,), "Q?"),
            Says("f", (RED,), ""),
        ),
        unused=("no-questions.json",),
    ),
    Case(
        name="lists-as-pandas-writes-them",
        write=csv(f"images,question,answer\n\"['{ONE}', '{TWO}']\",Q?,two\n['{THREE}'],Q?,one\n"),
        says=(Says("two", (RED, GREEN), "Q?"), Says("one", (BLUE,), "Q?")),
    ),
    Case(
        name="lists-as-texts-in-lines",
        write=rows(
            {"image": f'["{ONE}", "{TWO}"]', "question": "Q?", "answer": "two"},
            {
                "image": f"['{THREE}']",
                "conversations": [{"from": "human", "value": "<image>Q?"}, {"from": "gpt", "value": "one"}],
            },
        ),
        says=(Says("two", (RED, GREEN), "Q?"), Says("one", (BLUE,), "Q?")),
    ),
    Case(
        name="inputs-and-outputs",
        write=rows(
            {"instruction": "Answer.", "inputs": "Q?", "outputs": "a", "image_base64_str": [base64_of(RED)]},
            {"instruction": "Describe.", "inputs": "", "outputs": "b", "image_base64_str": [base64_of(GREEN)]},
        ),
        says=(Says("a", (RED,), "Answer.\nQ?"), Says("b", (GREEN,), "Describe.")),
    ),
    Case(
        name="questions-for-evaluation",
        write=questions_for_evaluation,
        says=(Says("yes", (RED,), "Is it red?"), Says("blue", (BLUE,))),
        unused=("questions.jsonl", TWO),
    ),
    Case(
        name="numbers-of-classes",
        write=rows(
            {"image": ONE, "label": "red"},
            {"image": ONE, "label": "427"},
            {"image": TWO, "label": 1},
            {"image": TWO, "label": 4271},
            {"image": THREE, "label": 2.0},
        ),
        says=(Says("red", (RED,)), Says("427", (RED,))),
        rejects={"malformed": 3},
    ),
    Case(
        name="numbers-as-texts-in-a-table-by-hand",
        write=csv(f"image,Label\n{ONE},427\n{TWO},4271\n"),
        says=(Says("427", (RED,)), Says("4271", (GREEN,))),
    ),
    Case(
        name="questions-for-evaluation-in-a-table-by-hand",
        write=csv(f"question_id,image,text,label\n1,{ONE},Is there a dog?,yes\n"),
        says=(Says("yes", (RED,), "Is there a dog?"),),
    ),
    Case(
        name="media-by-ids",
        write=called_by_ids,
        says=(
            Says("coco", (RED,), "Q?"),
            Says("float", (RED,), "Q?"),
            Says("text", (GREEN,), "Q?"),
            *[Says(name, (BLUE,), "Q?") for name in ("name", "path", "tsv")],
            Says("activity", (RED,), "Q?"),
            Says("msrvtt", (GREEN,), "Q?"),
            Says("msvd", (BLUE,), "Q?"),
        ),
        rejects={"missing_file": 1},
        unused=("x",),
    ),
    Case(
        name="media-in-fields-that-nobody-reads",
        write=named_in_vain,
        says=(Says("words", (), "Q?"), Says("a", (), "Q?")),
        rejects={"missing_file": 4},
        unused=(ONE, TWO, THREE),
    ),
    Case(
        name="columns-under-other-names",
        write=other_names,
        says=(
            *[Says("a", (RED,), "A?")] * 5,
            *[Says("b", (GREEN,))] * 5,
            *[Says("c", (GREEN,))] * 3,
            Says("[b] [1, 2]", (BLUE,)),
            Says("[1, 2]", (BLUE,)),
        ),
    ),
    *CHOICES,
    *COLUMNS,
    Case(
        name="nan-in-a-tar",
        write=nan_in_a_tar,
        says=(Says("red", (RED,)), Says("green", (GREEN,))),
        rejects={"empty_answer": 1},
        notes={"nan_as_null": 1},
    ),
    Case(
        name="nan-in-lines",
        write=nan_in_lines,
        says=(Says("red", (RED,), "What?"), Says("green", (GREEN,), "What?"), Says("NaN", (BLUE,), "NaN?")),
        rejects={"malformed": 2, "empty_answer": 1},
        notes={"nan_as_null": 3},
    ),
    Case(
        name="nan-in-an-array",
        write=nan_in_an_array,
        says=(Says("It is Infinity.", (RED,), "What?"),),
        notes={"nan_as_null": 1},
    ),
    Case(
        name="nan-in-a-sidecar",
        write=nan_in_a_sidecar,
        says=(Says("red", (RED,), "What?"), Says("green", (GREEN,))),
        notes={"nan_as_null": 2},
    ),
    Case(
        name="nan-in-instructions",
        write=nan_in_instructions,
        says=(Says("red", (RED,), "What?"),),
        rejects={"empty_answer": 1},
        notes={"nan_as_null": 1},
    ),
]
