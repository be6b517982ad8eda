"""Sets of questions and captions as they are published: in lists of lists, in two files, or named in odd ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.corpus.case import BLUE, GREEN, RED, Case, Says, picture
from tests.corpus.media import clip
from tests.factories.sources import put


def visual_genome(root: Path) -> None:
    """Questions in lists of each picture, and regions, which say nothing of the whole picture."""
    put(root, "VG_100K/1.jpg", picture(RED))
    put(root, "VG_100K_2/2.jpg", picture(GREEN))

    def asked(image: int, qa: int, **fields: Any) -> dict[str, Any]:
        return {"qa_id": qa, "image_id": image, "question": "Q?", "answer": f"{image}.{qa}", "a_objects": [], **fields}

    about = [
        {"id": 1, "qas": [asked(1, 10), asked(1, 11)]},
        {"id": 2, "qas": [asked(2, 20), "none", asked(2, 21, answer=None)]},
        {"id": 3, "qas": []},
        {"id": 4, "qas": [asked(4, 40)]},
    ]
    put(root, "question_answers.json", about)
    put(root, "region_descriptions.json", [{"id": 1, "regions": [{"image_id": 1, "phrase": "a leg", "x": 1}]}])


def visual7w(root: Path) -> None:
    """Pictures with questions, in one object; the choices listed are the wrong ones, of which a letter is none."""
    images = []
    for number, colour in enumerate((RED, GREEN), 1):
        put(root, f"images/v7w_{number}.jpg", picture(colour))
        pair = {"qa_id": number, "question": "Q?", "answer": f"right {number}", "multiple_choices": ["a", "b", "c"]}
        pairs = [pair, {**pair, "answer": "D"}]
        images.append({"image_id": number, "filename": f"v7w_{number}.jpg", "split": "train", "qa_pairs": pairs})
    put(root, "dataset_v7w_telling.json", json.dumps({"dataset": "v7w", "images": images}, indent=1))


def nested_as_it_comes(root: Path) -> None:
    """Lists of questions by id, below pictures written as text, with ids of their own, and a question beside one."""
    for number, colour in enumerate((RED, GREEN, BLUE), 1):
        put(root, f"{number}.png", picture(colour))
    one = {"question": "Q?", "answer": "one"}
    put(root, "by_id.json", {"a": {"image": "1.png", "qa": [one]}, "b": {"image": "2.png", "qa": [one, one]}})
    lines = [{"image": "3.png", "pairs": [{"id": n, "question": "Q?", "answer": n}]} for n in ("x", "y")]
    put(root, "lines.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    put(root, "own.json", [{"image": "1.png", "question": "Own?", "answer": "own", "others": [one]}])
    put(root, "dialogues.json", [{"image": "1.png", "dialog": [one, {"question": "And why?", "answer": "no"}]}])
    mixed = [{"image": "1.png", "text": "red", "others": [one]}, {"image": "2.png", "others": [{**one, "image": None}]}]
    put(root, "mixed.json", mixed)
    counted = [{"id": number, "question": "Q?", "answer": f"{number} of two"} for number in range(2)]
    put(root, "counted.json", [{"image": f"{number}.png", "qas": counted} for number in (2, 3)])
    put(root, "conv.json", [{"image": "1.png", "conv": [one, {"question": "And why?", "answer": "no"}]}])
    put(root, "boxes.json", [{"image": "1.png", "boxes": [{"label": "red", "prompt": "the square"}]}])
    put(root, "no-media.json", [{"data_id": "x", "data_type": "text", "instruction": "Q?", "answer": "text"}])


def ocr_vqa(root: Path) -> None:
    """Books by their ids, which are the names of their pictures; the address is that of another file."""
    for number, colour in enumerate((RED, GREEN)):
        put(root, f"images/000{number}.jpg", picture(colour))
    put(root, "images/51UR0JKt.jpg", picture(BLUE))
    book = {"imageURL": "http://ecx.example.com/images/I/51UR0JKt.jpg", "questions": ["Who?", "Title?"], "split": 1}
    put(root, "texts.json", {"a": {"imageURL": "", "instruction": "Q?", "answer": "text"}})
    books = {f"000{number}": {**book, "answers": [f"by {number}", f"on {number}"]} for number in range(3)}
    put(root, "dataset.json", books)


def activity_net(root: Path) -> None:
    """Questions in one file and answers in another; those of the test split have no answers here."""
    (root / "videos").mkdir()
    clip(root / "videos/v_abc.mp4", RED)
    clip(root / "videos/v_def.mp4", GREEN)
    names = ("abc", "def", "def")
    questions = [{"question": "Q?", "video_name": n, "question_id": f"v_{n}_{i}"} for i, n in enumerate(names)]
    put(root, "train_q.json", [*questions, {"question": "Q?", "video_name": "abc", "question_id": None}, 7])
    answers = [{"answer": "a", "type": 3, "question_id": "v_abc_0"}, {"answer": "d", "question_id": "v_def_1"}]
    put(root, "train_a.json", [*answers, {**answers[0], "answer": "again"}, {"answer": "x", "question_id": "nobody"}])
    put(root, "test_q.json", questions)


def seed_bench(root: Path) -> None:
    """Pictures without extensions, called by ``data_id``; one is not used."""
    for name, colour in (("1454_259", RED), ("x2", GREEN), ("x3", BLUE)):
        put(root, f"SEED-Bench-image/{name}", picture(colour))
    choices = {f"choice_{letter}": f"{letter}{letter}" for letter in "abcd"}
    asked = [
        {**choices, "answer": answer, "data_id": id, "data_type": "image", "question": "Q?", "question_id": id}
        for id, answer in (("1454_259", "A"), ("x2", "D"))
    ]
    asked.append({**asked[0], "data_id": "x2", "data_type": "math", "question": "Sum?"})
    asked += [{**asked[1], "data_type": type, "question": f"{type}?"} for type in (None, "photo")]
    asked.append({**asked[1], "data_id": "none-such", "data_type": None})
    asked.append({name: value for name, value in asked[1].items() if name != "data_type"})
    put(root, "SEED-Bench.json", {"questions": asked, "question_type": {"Scene": 1}})


def without_pictures(root: Path) -> None:
    """Words that stand for no picture, of which some are names of pictures; one is a number, and so such a name."""
    for name, colour in (("none.png", RED), ("nan.png", RED), ("0.png", GREEN)):
        put(root, name, picture(colour))
    words = ("none", "NaN", "null", "n/a", "", "0", "none.png", ["None"])
    put(root, "d.json", [{"image": word, "question": f"{word}?", "answer": "d"} for word in words])
    put(
        root,
        "talks.json",
        [{"image": "none", "conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "t"}]}],
    )
    put(root, "table.csv", "image,question,answer\nnan,Q?,c\n0,Q?,c\n")
    put(root, "sound.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0")


def same_numbers_in_many_sets(root: Path) -> None:
    """Pictures of one set alone, and records of a mixture of sets whose pictures have the same numbers."""
    put(root, "coco/train2017/000000000009.png", picture(RED))
    put(root, "ai2d/images/1.png", picture(GREEN))
    names = ("coco/train2017/000000000009.png", "textvqa/images/000000000009.png", "ocr_vqa/images/1.png")
    names += ("/old/ai2d/1.png", "train2017/1.png")
    talks = [[{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": name}] for name in names]
    put(root, "mix.json", [{"image": name, "conversations": talk} for name, talk in zip(names, talks, strict=True)])


def flickr_captions(root: Path) -> None:
    """The lists of captions of Flickr8k, as published and as on Kaggle, a caption of a picture, and plain words."""
    put(root, "Flicker8k_Dataset/1_x.jpg", picture(RED))
    put(root, "Flicker8k_Dataset/2_x.jpg", picture(GREEN))
    lines = ('1_x.jpg#0\ta "red" one .', '2_x.jpg#0\t" an open quote', "no tab", "2_x.jpg\tgreen .")
    put(root, "Flickr8k.token.txt", "\n".join(lines) + "\n")
    put(root, "Flickr8k.lemma.token.txt", "1_x.jpg#0\tred\n")
    put(root, "kaggle/captions.txt", 'image,caption\n1_x.jpg,"red, too"\n2_x.jpg,green too\n')
    put(root, "own/captions.jpg", picture(BLUE))
    put(root, "own/captions.txt", "blue")
    put(root, "list/captions.jpg", picture(BLUE))
    put(
        root,
        "list/captions.json",
        [{"image": "list/captions.jpg", "caption": "blue"}, {"image": "1_x.jpg", "caption": "red"}],
    )
    put(root, "words/captions.txt", "these, are, words\n")


def asked_in_texts(root: Path) -> None:
    """Texts beside pictures: the questions of MME, and captions that look a little like them."""
    for name, colour, text in (
        ("mme", RED, "Is it red? Please answer yes or no.\tYes\r\nIs it green?\tno\r\n"),
        ("words", GREEN, "It is green.\tYes"),
        ("empty", BLUE, "\n"),
    ):
        put(root, f"OCR/{name}.png", picture(colour))
        put(root, f"OCR/{name}.txt", text)


def true_and_false(root: Path) -> None:
    """Captions of VSR, some of which are false, and choices of STAR, in objects."""
    put(root, "1.png", picture(RED))
    about = {"image": "1.png", "relation": "ahead of"}
    captions = (("A cat is ahead of it.", 1), ("It is ahead of a cat.", 0), ("Ahead of all.", "False"), ("A class.", 0))
    rows = [{**about, "caption": caption, "label": label} for caption, label in captions]
    put(root, "vsr.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    choices = [{"choice_id": number, "choice": f"{letter}{letter}"} for number, letter in enumerate("abcd")]
    put(
        root,
        "mmbench.tsv",
        "image\tquestion\tA\tB\tC\tD\tanswer\n1.png\tQ?\taa\tnan\tnan\tnan\tA\n1.png\tN?\taa\tnan\tcc\t\tC\n",
    )
    put(root, "nlvr2.json", [{"image": "1.png", "sentence": "It is red.", "label": label} for label in ("True", False)])
    put(
        root,
        "egoschema.jsonl",
        json.dumps({"image": "1.png", "question": "Ego?", "option": ["aa", "bb"], "answer": "1"}),
    )
    put(root, "rlhf-v.json", [{"image": "1.png", "text": '{"question": "Q?", "chosen": "red", "rejected": "blue"}'}])
    put(root, "ureader.json", [{"image": ["1.png"], "prompt": "Human: Q?\nAI: ", "text": "Human: Q?\nAI: red"}])
    honest = [{"image": "1.png", "question": "Sum?", "A": 1, "B": 0, "answer": "B"}]
    honest += [{"image": "1.png", "caption": '{"title": "red", "query": "sql"}'}]
    honest += [{"image": "1.png", "prompt": "Cat", "text": "Cats are red."}]
    put(root, "honest.jsonl", "".join(json.dumps(row) + "\n" for row in honest))
    put(root, "star.json", [{"image": "1.png", "question": "Q?", "answer": "bb", "choices": choices}])


QUESTION = "Q?"
CHOICES = "\n".join((QUESTION, "A. aa", "B. bb", "C. cc", "D. dd"))

CASES = [
    Case(
        name="questions-in-lists-of-each-picture",
        write=visual_genome,
        says=(*(Says(f"1.{qa}", (RED,), QUESTION) for qa in (10, 11)), Says("2.20", (GREEN,), QUESTION)),
        rejects={"malformed": 2, "empty_answer": 1, "missing_file": 1},
        unused=("region_descriptions.json",),
    ),
    Case(
        name="questions-beside-wrong-choices",
        write=visual7w,
        says=(Says("right 1", (RED,), QUESTION), Says("right 2", (GREEN,), QUESTION)),
        rejects={"malformed": 2},
    ),
    Case(
        name="questions-in-lists-as-they-come",
        write=nested_as_it_comes,
        says=(
            *(Says("one", (colour,), QUESTION) for colour in (RED, GREEN, GREEN)),
            *(Says(answer, (BLUE,), QUESTION) for answer in "xy"),
            *(Says(f"{number} of two", (colour,), QUESTION) for colour in (GREEN, BLUE) for number in range(2)),
            Says("own", (RED,), "Own?"),
            Says("red", (RED,)),
            Says("one", (GREEN,), QUESTION),
            Says("text", (), QUESTION),
        ),
        unused=("boxes.json", "conv.json", "dialogues.json"),
    ),
    Case(
        name="pictures-called-by-the-ids-of-records",
        write=ocr_vqa,
        says=(
            *(
                Says(f"{word} {number}", (colour,), question)
                for number, colour in enumerate((RED, GREEN))
                for word, question in (("by", "Who?"), ("on", "Title?"))
            ),
            Says("text", (), QUESTION),
        ),
        rejects={"missing_file": 2},
    ),
    Case(
        name="answers-in-a-file-of-their-own",
        write=activity_net,
        says=(Says("a", (RED,), QUESTION), Says("d", (GREEN,), QUESTION)),
        rejects={"empty_answer": 1, "malformed": 2},
        unused=("test_q.json",),
    ),
    Case(
        name="pictures-without-extensions",
        write=seed_bench,
        says=(
            *(Says("aa", (RED,), CHOICES), Says("dd", (GREEN,), CHOICES)),
            Says("aa", (), CHOICES.replace(QUESTION, "Sum?")),
            *(Says("dd", (GREEN,), CHOICES.replace(QUESTION, question)) for question in ("None?", "photo?")),
        ),
        rejects={"missing_file": 2},
    ),
    Case(
        name="questions-in-texts-beside-pictures",
        write=asked_in_texts,
        says=(
            Says("Yes", (RED,), "Is it red? Please answer yes or no."),
            *(Says("no", (RED,), "Is it green?"), Says("It is green.\tYes", (GREEN,))),
        ),
        rejects={"empty_answer": 1},
    ),
    Case(
        name="captions-that-are-false",
        write=true_and_false,
        says=(
            *(Says("A cat is ahead of it.", (RED,)), Says("A class.", (RED,)), Says("bb", (RED,), CHOICES)),
            *(Says("aa", (RED,), "Q?\nA. aa"), Says("cc", (RED,), "N?\nA. aa\nB. nan\nC. cc")),
            *(Says("bb", (RED,), "Ego?\nA. aa\nB. bb"), Says("0", (RED,), "Sum?\nA. 1\nB. 0")),
            *(Says('{"title": "red", "query": "sql"}', (RED,)), Says("Cats are red.", (RED,), "Cat")),
        ),
        rejects={"malformed": 6},
    ),
    Case(
        name="words-in-the-place-of-pictures",
        write=without_pictures,
        says=(
            *(Says("d", (), f"{word}?") for word in ("none", "NaN", "null", "n/a")),
            *(Says("d", (), "?"), Says("d", (GREEN,), "0?"), Says("d", (RED,), "none.png?")),
            *(Says("t", (), QUESTION), Says("c", (), QUESTION), Says("c", (GREEN,), QUESTION)),
        ),
        rejects={"malformed": 1},
        unused=("nan.png", "sound.m4a"),
    ),
    Case(
        name="the-same-numbers-in-many-sets",
        write=same_numbers_in_many_sets,
        says=(
            Says("coco/train2017/000000000009.png", (RED,), QUESTION),
            Says("/old/ai2d/1.png", (GREEN,), QUESTION),
        ),
        rejects={"missing_file": 3},
    ),
    Case(
        name="captions-listed-in-texts",
        write=flickr_captions,
        says=(
            *(Says('a "red" one .', (RED,)), Says('" an open quote', (GREEN,)), Says("green .", (GREEN,))),
            *(Says("red, too", (RED,)), Says("green too", (GREEN,)), Says("blue", (BLUE,))),
            *(Says("blue", (BLUE,)), Says("red", (RED,))),
        ),
        rejects={"malformed": 1},
        unused=("Flickr8k.lemma.token.txt", "words/captions.txt"),
    ),
]
