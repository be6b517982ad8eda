"""Conversations: speakers, content lists, placeholders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.case import BLUE, GREEN, RED, Case, Says, picture
from tests.corpus.tables import DATASETS_IMAGE, base64_of, rows
from tests.factories.sources import put
from tests.factories.tars import put_tar

ONE, TWO, THREE = "1.png", "2.png", "3.png"
NEXT = {"type": "image"}
RED_URL = f"data:image/png;base64,{base64_of(RED)}"


def talk(*texts: Any, speakers: tuple[str, str] = ("human", "gpt")) -> list[dict[str, Any]]:
    return [{"from": speakers[number % 2], "value": text} for number, text in enumerate(texts)]


def record(pictures: str | list[str] | None, *texts: Any, **fields: Any) -> dict[str, Any]:
    return {"image": pictures, "conversations": talk(*texts)} | fields


def content(*parts: Any, answer: Any = "red") -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": answer}]


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"from": "human", "value": text} | fields


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def placeholder(name: str, pictures: str | list[str], question: str, instruction: str) -> Case:
    """One question about one or two pictures, and the words that become of it."""
    shows = (RED, GREEN)[: len(pictures) if isinstance(pictures, list) else 1]
    return Case(
        name=f"placeholders-{name}",
        write=rows(record(pictures, question, "yes"), name="d.json"),
        says=(Says("yes", shows, instruction),),
    )


def tokens_as_words(root: Path) -> None:
    """The names of tokens of the model in the texts of all kinds of files."""
    talks = [
        record(ONE, "<image>\nSay <answer>.", "<think>b</think><answer>a</answer>"),
        record(ONE, "<image>\n<|endofchunk|>User: GPT:<answer>", "b<|endofchunk|>"),
        record(ONE, "<image>\n<s>[INST]?", "</s><PAD><|im_start|>"),
    ]
    rows(*talks, name="d.json")(root)
    put(root, "t.csv", f"image,question,answer\n{ONE},What?,c <answer>\n")
    put(root, "a/0.png", picture(RED))
    put(root, "a/0.txt", "<image> is a tag<|endofchunk|>")
    put_tar(root, "b.tar", [("0.png", picture(GREEN)), ("0.json", {"caption": "a <image>, then"})])
    put(root, "c.json", [{"instruction": "<|endofchunk|>", "input": "", "output": "<answer>d"}])


PLACEHOLDERS = [
    placeholder("inside", [ONE, TWO], "Is <image> brighter than <image>?", "Is image 1 brighter than image 2?"),
    placeholder("at-the-end", [ONE, TWO], "Compare <image> with <image>", "Compare image 1 with image 2"),
    placeholder("after-the-words", ONE, "What is this? <image>", "What is this?"),
    placeholder("in-lines", [ONE, TWO], "A: <image>\nB: <image>\nWhich?", "A: image 1\nB: image 2\nWhich?"),
    placeholder("numbered", [ONE, TWO], "Which <image 1> is <image 2>?", "Which image 1 is image 2?"),
    placeholder("of-phi", [ONE, TWO], "<|image_1|>\n<|image_2|>\nWhich?", "Which?"),
    placeholder("of-xcomposer", ONE, "<ImageHere>Which?", "Which?"),
    placeholder("closed", ONE, "<image/>\nWhich?", "Which?"),
    placeholder(
        "beside-words",
        ONE,
        "<image>\nSay </s>, <|im_start|>, <img>.",
        "Say </s>, <|im_start|>, <img>.",
    ),
    Case(
        name="placeholders-with-paths-inside",
        write=rows(
            {"conversations": talk(f"Picture 1: <img>{ONE}</img>\nA?", "a", "B?", "b", speakers=("user", "assistant"))},
            {"conversations": talk(f"<img>my old/{TWO}</img><img>{THREE}</img>C?", "c")},
            record(ONE, "<img>elsewhere.png</img>D?", "d"),
            {"conversations": talk("<img>nowhere.png</img>E?", "e")},
            record(ONE, "<image>F?", "<bbox>", objects={"bbox": [[1, 2, 3, 4]]}),
            record(ONE, "<image>What is <bbox>?", "f", objects=["a tag"]),
            name="d.json",
        ),
        says=(
            Says("a", (RED,), "Picture 1: image 1\nA?"),
            Says("b", (RED,), "B?"),
            Says("c", (GREEN, BLUE), "C?"),
            *(Says("d", (RED,), "D?"), Says("f", (RED,), "What is <bbox>?")),
        ),
        rejects={"missing_file": 1, "malformed": 1},
    ),
    Case(
        name="placeholders-in-later-turns",
        write=rows(record([ONE, TWO], "<image>\nA?", "a", "Is <image> the same?", "b", "C?", "c"), name="d.json"),
        says=(
            Says("a", (RED,), "A?"),
            Says("b", (GREEN,), "Is image 2 the same?"),
            Says("c", (GREEN,), "C?"),
        ),
    ),
    Case(
        name="placeholders-in-answers",
        write=rows(
            record([ONE, TWO], "<image><image>Which is red?", "<image 1>, not <image 2>."),
            record(ONE, "<image>Which tag is for pictures?", "<image>"),
            name="d.json",
        ),
        says=(
            Says("image 1, not image 2.", (RED, GREEN), "Which is red?"),
            Says("<image>", (RED,), "Which tag is for pictures?"),
        ),
        notes={"tokens_as_words": 1},
    ),
    Case(
        name="tokens-as-words",
        write=tokens_as_words,
        says=(
            Says("<think>b</think><answer>a</answer>", (RED,), "Say <answer>."),
            Says("b<|endofchunk|>", (RED,), "<|endofchunk|>User: GPT:<answer>"),
            Says("</s><PAD><|im_start|>", (RED,), "<s>[INST]?"),
            Says("c <answer>", (RED,), "What?"),
            Says("<image> is a tag<|endofchunk|>", (RED,)),
            Says("a <image>, then", (GREEN,)),
            Says("<answer>d", (), "<|endofchunk|>"),
        ),
        notes={"tokens_as_words": 6},
    ),
    Case(
        name="placeholders-in-every-turn",
        write=rows(
            record(ONE, "<image>\nA?", "a", "<image>\nB?", "b", "C? <image>", "c"),
            record([ONE, TWO], "<image><image>D?", "d", "Is <image> like <image>?", "e"),
            record(ONE, "<ImageHere>F?", "f", "<ImageHere>G?", "g"),
            record(ONE, "<img>\nH?", "h", "<img>\nI?", "i"),
            {
                "images": [TWO],
                "messages": [*content(NEXT, words("J?"), answer="j"), *content(words("K?"), NEXT, answer="k")],
            },
            {
                "image": THREE,
                "texts": [{"user": "<image>L?", "assistant": "l"}, {"user": "<image>M?", "assistant": "m"}],
            },
            name="d.json",
        ),
        says=(
            *(Says(text.lower(), (RED,), f"{text}?") for text in "ABCFGHI"),
            Says("d", (RED, GREEN), "D?"),
            Says("e", (RED, GREEN), "Is image 1 like image 2?"),
            *(Says(text.lower(), (GREEN,), f"{text}?") for text in "JK"),
            *(Says(text.lower(), (BLUE,), f"{text}?") for text in "LM"),
        ),
        notes={"shown_once": 6},
    ),
    Case(
        name="placeholders-that-do-not-match",
        write=rows(
            record(ONE, "<image>A?", "a", "<image>B?", "b", "C?", "c"),
            record(ONE, "<image>A?", "a", "<image><image>B?", "b"),
            record([ONE, TWO], "<image>A?", "a", "<image><image>B?", "b"),
            record([ONE, TWO], "<image>A?", "a"),
            record(None, "<image>A?", "a"),
            record(ONE, "<image 2>A?", "a"),
            record(ONE, "<image>Red?", "yes"),
            name="d.json",
        ),
        says=(Says("yes", (RED,), "Red?"),),
        rejects={"placeholder_mismatch": 10},
    ),
]

UNMARKED = (record(ONE, "A?", "a", "B?", "b"), record([ONE, TWO], "C?", "c"))
UNMARKED_SAYS = (Says("a", (RED,), "A?"), Says("b", (RED,), "B?"), Says("c", (RED, GREEN), "C?"))


def unmarked_in_a_tar(root: Path) -> None:
    put_tar(root, "d.tar", [("0.png", picture(RED)), ("0.json", {"conversations": talk("A?", "a", "B?", "b")})])


def vsft(root: Path) -> None:
    """The shape of llava-instruct-mix-vsft."""
    part = pa.struct([("index", pa.int64()), ("text", pa.string()), ("type", pa.string())])
    message = pa.struct([("content", pa.list_(part)), ("role", pa.string())])
    shown = {"index": 0, "text": None, "type": "image"}
    said = [{"index": None, "text": text, "type": "text"} for text in ("A?", "a", "B?", "b")]
    messages = [
        {"role": "user", "content": [said[0], shown]},
        {"role": "assistant", "content": [said[1]]},
        {"role": "user", "content": [said[2]]},
        {"role": "assistant", "content": [said[3]]},
    ]
    columns = {
        "messages": pa.array([messages], pa.list_(message)),
        "images": pa.array([[{"bytes": picture(RED), "path": None}]], pa.list_(DATASETS_IMAGE)),
    }
    pq.write_table(pa.table(columns), root / "train.parquet")


def data_urls_in_parquet(root: Path) -> None:
    url = {"url": f"data:image/png;base64,{base64_of(GREEN)}"}
    said = content({"type": "image_url", "image_url": url, "text": None}, words("A?"), answer=[words("a")])
    pq.write_table(pa.table({"messages": [said]}), root / "d.parquet")


def speakers(name: str, asks: str, answers: str) -> Case:
    said = talk("<image>\nA?", "a", speakers=(asks, answers))
    return Case(
        name=f"speakers-{name}",
        write=rows({"image": ONE, "conversations": said}, name="d.json"),
        says=(Says("a", (RED,), "A?"),),
    )


CASES: list[Case] = [
    *PLACEHOLDERS,
    Case(name="no-placeholder", write=rows(*UNMARKED), says=UNMARKED_SAYS, notes={"shown_first": 2}),
    Case(name="no-placeholder-in-a-tar", write=unmarked_in_a_tar, says=UNMARKED_SAYS[:2], notes={"shown_first": 1}),
    Case(
        name="no-placeholder-is-refused",
        write=rows(*UNMARKED, record(ONE, "<image>Red?", "yes")),
        says=(Says("yes", (RED,), "Red?"),),
        rejects={"placeholder_mismatch": 3},
        config={"options": {"llava": {"require_placeholders": 1}}},
    ),
    speakers("with-capitals", "Human", "GPT"),
    speakers("of-chats", " USER ", "Assistant"),
    speakers("of-models", "user", "model"),
    speakers("of-bots", "human", "Bot"),
    Case(
        name="speakers-unknown",
        write=rows(
            {"id": "x", "conversations": [*talk("A?", "a"), {"from": "observation", "value": "b"}]},
            {"id": "y", "conversations": [{"from": "Narrator", "value": "Once."}, *talk("A?", "a")]},
            record(ONE, "<image>Red?", "yes"),
            name="d.json",
        ),
        says=(Says("yes", (RED,), "Red?"),),
        rejects={"malformed": 2},
    ),
    Case(
        name="parts-with-pictures-of-the-record",
        write=rows(
            {
                "images": [ONE, TWO],
                "messages": content(words("Is"), NEXT, words("like"), NEXT, words("?")),
            },
            {
                "images": [ONE, TWO],
                "messages": content(NEXT | {"index": 1}, NEXT | {"index": 0}, words("B?")),
            },
            {"images": [THREE], "messages": content({"type": "image"}, words("C?"), answer=[words("blue")])},
        ),
        says=(
            Says("red", (RED, GREEN), "Is image 1 like image 2?"),
            Says("red", (GREEN, RED), "B?"),
            Says("blue", (BLUE,), "C?"),
        ),
    ),
    Case(
        name="parts-that-name-their-pictures",
        write=rows(
            {"messages": content({"type": "image_url", "image_url": {"url": ONE}}, words("A?"))},
            {"messages": content({"type": "image", "image": TWO}, words("B?"), answer="green")},
            {"messages": content({"image": THREE}, {"text": "C?"}, answer=[{"text": "blue"}])},
            {"messages": content({"type": "image_url", "image_url": RED_URL}, words("D?"))},
            name="d.json",
        ),
        says=(
            Says("red", (RED,), "A?"),
            Says("green", (GREEN,), "B?"),
            Says("blue", (BLUE,), "C?"),
            Says("red", (RED,), "D?"),
        ),
    ),
    Case(
        name="media-by-placeholder",  # as MiniCPM-V writes them; other objects say nothing that is known
        write=rows(
            {
                "image": {"<image_01>": TWO, "<image_00>": ONE, "<image_02>": THREE},
                "conversations": talk("Is <image_00> like <image_01> or <image_02>?", "a"),
            },
            {"image": {"left": ONE}, "conversations": talk("<image>Q?", "b")},
            name="d.json",
        ),
        says=(Says("a", (RED, GREEN, BLUE), "Is image 1 like image 2 or image 3?"),),
        rejects={"malformed": 1},
    ),
    Case(
        name="parts-of-other-kinds",
        write=rows(
            {"messages": content({"type": "input_audio", "input_audio": {"data": "x"}}, words("A?"))},
            {"messages": content({"type": "tool_use"}, words("A?"))},
            {"images": [ONE], "messages": content({"type": "image"}, {"type": "image"}, words("A?"))},
            {"images": [ONE], "messages": content({"type": "image"}, words("Red?"), answer="yes")},
        ),
        says=(Says("yes", (RED,), "Red?"),),
        rejects={"unsupported_media": 1, "malformed": 1, "placeholder_mismatch": 1},
    ),
    Case(
        name="parts-beside-written-placeholders",
        write=rows(
            {"images": [ONE], "messages": content(NEXT, words("<image>\nA?"))},
            {"images": [ONE, TWO], "messages": content(NEXT, NEXT, words("Is <image> like <image>?"))},
            {"messages": content({"type": "image", "image": THREE}, words("<image>C?"), answer="blue")},
            name="d.json",
        ),
        says=(
            Says("red", (RED,), "A?"),
            Says("red", (RED, GREEN), "Is image 1 like image 2?"),
            Says("blue", (BLUE,), "C?"),
        ),
    ),
    Case(
        name="turns-that-name-their-pictures",
        write=rows(
            {
                "conversations": [
                    asked("A?", image=ONE),
                    *talk("x", "a")[1:],
                    asked("<image>B?", images=[TWO, THREE]),
                    *talk("x", "b")[1:],
                ]
            },
            {"conversations": [asked("<image>C?", image="nowhere.png"), *talk("x", "c")[1:]]},
            {"conversations": [asked("D?", image=TWO), *talk("x", "d")[1:]], "image": TWO},
            name="d.json",
        ),
        says=(Says("a", (RED,), "A?"), Says("b", (GREEN, BLUE), "B?"), Says("d", (GREEN,), "D?")),
        rejects={"missing_file": 1},
    ),
    Case(
        name="earlier-rounds-and-inputs",
        write=rows(
            {"query": "B?", "response": "b", "history": [["<image>A?", "a"]], "images": [ONE]},
            {"instruction": "Say", "input": "what.", "output": "c", "images": [TWO]},
            {"instruction": "Say", "input": "", "output": "e", "history": [["D?", "d"]], "image": THREE},
            {"query": "F?", "response": "f", "history": ["odd"], "images": [ONE]},
            {"query": "G?", "response": "g", "history": [], "images": [ONE]},
        ),
        says=(
            Says("a", (RED,), "A?"),
            Says("b", (RED,), "B?"),
            Says("c", (GREEN,), "Say\nwhat."),
            Says("d", (BLUE,), "D?"),
            Says("e", (BLUE,), "Say"),
            Says("g", (RED,), "G?"),
        ),
        rejects={"malformed": 1},
        notes={"shown_first": 1},
    ),
    Case(name="parts-in-parquet", write=vsft, says=(Says("a", (RED,), "A?"), Says("b", (RED,), "B?"))),
    Case(name="parts-with-data-urls-in-parquet", write=data_urls_in_parquet, says=(Says("a", (GREEN,), "A?"),)),
    Case(
        name="texts-of-the-cauldron-in-lines",
        write=rows({"images": [ONE], "texts": [{"user": "A?", "assistant": "a", "source": "x"}]}),
        says=(Says("a", (RED,), "A?"),),
    ),
]
