"""Benchmarks as their authors release them: those that no format reads are named, and no answer is nonsense."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.case import BLUE, GREEN, RED, YELLOW, Case, Colour, Says, picture
from tests.corpus.media import clip
from tests.factories.sources import put, put_lines

FOUR = ["egg", "larva", "pupa", "adult"]


def put_table(root: Path, path: str, rows: list[dict[str, object]]) -> None:
    place = put(root, path, b"")
    pq.write_table(pa.Table.from_pylist(rows), place)


def cell(colour: Colour) -> dict[str, object]:
    return {"bytes": picture(colour), "path": None}


def of_no_format(root: Path) -> None:
    """Winoground, NLVR2, IconQA, EgoSchema, AI2D and VisDial, beside one record that is read."""
    put_lines(root, "own/manifest.jsonl", [{"image": "own.png", "instruction": "Q?", "answer": "own"}])
    put(root, "own/own.png", picture(YELLOW))
    order = {"caption_0": "old kisses young", "caption_1": "young kisses old", "tag": "Noun", "num_main_preds": 1}
    put_table(root, "wino/test.parquet", [{"id": 0, "image_0": cell(RED), "image_1": cell(GREEN), **order}])
    put_lines(root, "wino/examples.jsonl", [{"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", **order}])
    urls = {"left_url": "https://a.org/l.jpg", "right_url": "https://a.org/r.jpg"}
    pair = {"sentence": "Two dogs.", "label": "True", "identifier": "dev-0-0-0", "query": "dog", **urls}
    put_lines(root, "nlvr2/dev.json", [pair, {**pair, "identifier": "dev-0-1-0"}])
    shown = {"question": "Which?", "choices": ["choice_0.png", "choice_1.png"], "answer": 1, "ques_type": "choose_img"}
    put(root, "iconqa/train/choose_img/10/data.json", shown)
    put(root, "iconqa/train/fill_in_blank/12/data.json", {"question": "How many?", "answer": "7"})
    asked = {f"option {number}": f"C does {number}." for number in range(5)}
    put(root, "ego/questions.json", [{"q_uid": "00-11", "google_drive_id": "x", "question": "What?", **asked}])
    put(root, "ego/subset_answers.json", {"00-11": 3})
    about = {"What comes next?": {"answerTexts": FOUR, "correctAnswer": 2, "questionId": "0.png-0"}}
    put(root, "ai2d/questions/0.png.json", {"questions": about, "imageName": "0.png"})
    rounds = [{"question": 1, "answer": 0, "answer_options": [0, 1], "gt_index": 0}]
    talks = [{"image_id": 378466, "caption": "a man", "dialog": rounds}]
    data = {"questions": ["is it sunny", "a dog"], "answers": ["yes", "no"], "dialogs": talks}
    put(root, "visdial/visdial_1.0_train.json", {"version": "1.0", "split": "train", "data": data})
    for path in MEDIA_OF_NOBODY:
        put(root, path, picture(RED))
    (root / "ego/videos").mkdir()
    clip(root / "ego/videos/00-11.mp4", RED)


MEDIA_OF_NOBODY = (
    *("wino/images/ex_0_img_0.png", "wino/images/ex_0_img_1.png", "nlvr2/dev/dev-0-0-img0.png"),
    *("nlvr2/dev/dev-0-0-img1.png", "iconqa/train/choose_img/10/image.png", "iconqa/train/choose_img/10/choice_0.png"),
    *("iconqa/train/choose_img/10/choice_1.png", "iconqa/train/fill_in_blank/12/image.png", "ai2d/images/0.png"),
    "visdial/378466.jpg",
)
FILES_OF_NOBODY = (
    *("wino/test.parquet", "wino/examples.jsonl", "nlvr2/dev.json", "iconqa/train/choose_img/10/data.json"),
    *("iconqa/train/fill_in_blank/12/data.json", "ego/questions.json", "ego/subset_answers.json"),
    *("ai2d/questions/0.png.json", "visdial/visdial_1.0_train.json"),
)


def figures(root: Path) -> None:
    """FigureQA and PlotQA name pictures by number; a 1 that means yes, or of no question, is no answer."""

    def asked(question: str, answer: object, number: int) -> dict[str, object]:
        return {"question_string": question, "image_index": number, "answer": answer, "color1_rgb": [0, 1, 2]}

    wrong = [asked("Is Salmon the minimum?", 0, 5), asked("Does Salmon intersect Blue?", 1, 6)]
    put(root, "figureqa/qa_pairs.json", {"total_distinct_colors": 5, "qa_pairs": wrong})
    right = [
        asked("Does it rise every year?", "Yes", 0),
        asked("What is it in 2001?", 12.5, 1),
        asked("How many?", 1, 1),
    ]
    put(root, "plotqa/qa_pairs_V2.json", {"qa_pairs": right})
    other = {"image": "plotqa/png/0.png"}
    lines = [{"statement": "It is red.", "answer": 1}, {"text": 2021}, {"question": "Is it red?", "answer": True}]
    put_lines(root, "other.jsonl", [{**other, **line} for line in lines])
    for number, colour in enumerate((RED, GREEN)):
        put(root, f"figureqa/png/{number + 5}.png", picture(BLUE))
        put(root, f"plotqa/png/{number}.png", picture(colour))


def judged(root: Path) -> None:
    """Judgements in tables (NLVR2, whose query is no question, SNLI-VE); choices that are no texts (IconQA, VCR)."""
    row = {"image_0": cell(RED), "image_1": cell(GREEN), "query": "dog", "label": "False"}
    put_table(root, "nlvr2.parquet", [{**row, "sentence": "Two dogs."}])
    icon = {"image": cell(RED), "question": "Which?", "choices": "choice_0.png,choice_1.png", "answer": "choice_1.png"}
    put_table(root, "iconqa.parquet", [icon, {**icon, "choices": "circle,square", "answer": "circle"}])
    put_table(root, "snli_ve.parquet", [{"image": cell(RED), "hypothesis": "A pet.", "label": "entailment"}])
    put(root, "0.png", picture(BLUE))
    listed = {"image": "0.png", "question": "Which?", "choices": ["choice_0.png", "choice_1.png"], "answer": 0}
    put_lines(root, "icons.jsonl", [listed])
    words = {"question": ["Is", [0], "sad", "?"], "answer_choices": [[[0], "is"], ["no"]], "answer_label": 1}
    put_lines(root, "vcr.jsonl", [{"img_fn": "0.png", "objects": ["person"], "img_id": "val-0", **words}])


def choices_in_tables(root: Path) -> None:
    """A-OKVQA, whose right choice is a place alone, and MME-RealWorld, whose choices have a name of two words."""
    shown = {"image": cell(RED), "question": "Which?"}
    put_table(
        root, "aokvqa.parquet", [{**shown, "choices": ["aa", "bb"], "correct_choice_idx": 1, "rationales": ["r"]}]
    )
    put_table(root, "mme.parquet", [{**shown, "multi-choice options": ["(A) aa", "(B) bb"], "answer": "A"}])


CASES: list[Case] = [
    Case(
        name="benchmarks-of-no-format",
        write=of_no_format,
        says=(Says("own", (YELLOW,), "Q?"),),
        unused=(*FILES_OF_NOBODY, *MEDIA_OF_NOBODY, "ego/videos/00-11.mp4"),
    ),
    Case(
        name="questions-about-figures",
        write=figures,
        says=(
            *(Says("Yes", (RED,), "Does it rise every year?"), Says("12.5", (GREEN,), "What is it in 2001?")),
            *(Says("1", (GREEN,), "How many?"), Says("2021", (RED,)), Says("true", (RED,), "Is it red?")),
        ),
        rejects={"malformed": 3},
    ),
    Case(
        name="choices-in-tables",
        write=choices_in_tables,
        says=(Says("bb", (RED,), "Which?\nA. aa\nB. bb"), Says("aa", (RED,), "Which?\nA. aa\nB. bb")),
    ),
    Case(
        name="answers-that-are-no-words",
        write=judged,
        says=(Says("circle", (RED,), "Which?"),),
        rejects={"malformed": 5},
    ),
]
