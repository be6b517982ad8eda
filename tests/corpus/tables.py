"""Rows of JSON Lines, JSON, CSV, parquet and Arrow: columns, choices, text as Python writes it."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

from tests.corpus.case import BLUE, GREEN, RED, Case, Colour, Says, picture
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


CASES = [
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
