"""What a file is taken for: odd first records, odd names, and files that nobody uses."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.corpus.case import BLUE, GREEN, RED, Case, Says, picture
from tests.factories.sources import put
from tests.factories.tars import put_tar


def _talk(question: str, answer: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": answer, "image": "green.png", "conversations": turns}


def _odd_first(name: str, first: Any, record: dict[str, Any] | None = None) -> Callable[[Path], None]:
    """A file whose ``first`` record is odd, and 30 good ones."""

    def write(root: Path) -> None:
        put(root, "green.png", picture(GREEN))
        good = [
            _talk(f"Question {n}?", f"answer {n}") if record is None else record | {"answer": f"answer {n}"}
            for n in range(30)
        ]
        records = [first, *good]
        if name.endswith(".jsonl"):
            put(root, name, "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
        else:
            put(root, name, records)

    return write


def _answers(instruction: str | None = None) -> tuple[Says, ...]:
    return tuple(
        Says(f"answer {n}", (GREEN,), f"Question {n}?" if instruction is None else instruction) for n in range(30)
    )


_ROW = {"image": "green.png", "instruction": "What?"}


def _encoded(root: Path) -> None:
    """One record in each file, in encodings of Windows and in compressed files."""
    put(root, "green.png", picture(GREEN))

    def row(answer: str) -> dict[str, str]:
        return {"image": "green.png", "instruction": "Où?", "answer": f"{answer} 😀"}

    url = f"data:image/png;base64,{base64.b64encode(picture(BLUE)).decode()}"
    put(root, "a.json", json.dumps([_talk("Où?", "a 😀")], ensure_ascii=False).encode("utf-16"))
    put(root, "b.jsonl", (json.dumps(row("b"), ensure_ascii=False) + "\n").encode("utf-16-le"))
    put(root, "c.jsonl", (json.dumps(row("c"), ensure_ascii=False) + "\n").encode("utf-8-sig"))
    put(root, "d.json", json.dumps([_talk("Où?", "d 😀")], ensure_ascii=False).encode("utf-32"))
    put(root, "e.csv", "image,question,answer\r\ngreen.png,Où?,e 😀\r\n".encode("utf-16"))
    put(root, "f.tsv", "image\tquestion\tanswer\ngreen.png\tOù?\tf 😀\n".encode("utf-16-be"))
    put(root, "g.jsonl.gz", gzip.compress(json.dumps(row("g")).encode()))
    put(root, "h.csv.bz2", bz2.compress("image;question;answer\ngreen.png;Où?;h 😀\n".encode()))
    put(root, "i.jsonl", json.dumps(row("i") | {"image": url}, ensure_ascii=False).encode("utf-16"))
    put(root, "j.csv", f'image,question,answer\n"{url}",Où?,j 😀\n'.encode("utf-16"))
    put(root, "k.csv", f'image,question,answer\n"{url}",Où?,k 😀\n'.encode("utf-8-sig"))
    put(root, "l.json.gz", gzip.compress(json.dumps([_talk("Où?", "l 😀")], ensure_ascii=False).encode()))
    for name, encoding in (("m", "utf-16"), ("n", "utf-8-sig"), ("o", "utf-32")):
        put(root, f"beside/{name}.png", picture(RED))
        put(root, f"beside/{name}.txt", f"{name} 😀".encode(encoding))
    put(root, "beside/p.png", picture(RED))
    put(
        root, "beside/p.json", json.dumps({"instruction": "Où?", "answer": "p 😀"}, ensure_ascii=False).encode("utf-16")
    )
    members = [("q.png", picture(RED)), ("q.txt", "q 😀".encode("utf-16"))]
    described = {"conversations": _talk("Où?", "r 😀")["conversations"]}
    members += [("r.png", picture(RED)), ("r.json", json.dumps(described, ensure_ascii=False).encode("utf-16"))]
    put_tar(root, "s.tar", members)


def _first_line_is_a_list(root: Path) -> None:
    """JSON Lines whose first line is a list, and JSON arrays of all kinds."""
    put(root, "green.png", picture(GREEN))

    def lines(*answers: str) -> str:
        return "".join(json.dumps(_ROW | {"answer": answer}) + "\n" for answer in answers)

    put(root, "empty-list.jsonl", "[]\n" + lines("a", "b"))
    put(root, "names.jsonl", '["image", "instruction"]\n' + lines("c", "d"))
    put(root, "no-suffix.json", "[1, 2]\n" + lines("e", "f"))
    put(root, "broken.jsonl", '[1, 2,\n{"answer":\n' + lines("g", "h", "i", "j"))
    put(root, "batches.jsonl", json.dumps([_ROW | {"answer": "k"}, _ROW | {"answer": "l"}]) + "\n" + lines("m"))
    put(root, "glued.json", (json.dumps([_ROW | {"answer": "n"}]) + "\n") + json.dumps([_ROW | {"answer": "o"}]))
    put(root, "by-line.json", "[" + lines("p", "q").strip().replace("\n", ",\n") + "\n]\n")
    put(root, "indented.json", json.dumps([_ROW | {"answer": "r"}], indent=2))


CASES: list[Case] = [
    Case(
        name="texts-in-other-encodings-and-compressed",
        write=_encoded,
        says=(
            *(Says(f"{name} 😀", (GREEN,), "Où?") for name in "abcdefghl"),
            *(Says(f"{name} 😀", (BLUE,), "Où?") for name in "ijk"),
            *(Says(f"{name} 😀", (RED,)) for name in "mnoq"),
            *(Says(f"{name} 😀", (RED,), "Où?") for name in "pr"),
        ),
    ),
    Case(
        name="lines-whose-first-is-a-list",
        write=_first_line_is_a_list,
        says=tuple(Says(answer, (GREEN,), "What?") for answer in "abcdefghijklmnopqr"),
        rejects={"malformed": 5},
    ),
    Case(
        name="llava-first-record-has-an-id-alone",
        write=_odd_first("talks.json", {"id": "x"}),
        says=_answers(),
        rejects={"malformed": 1},
    ),
    Case(
        name="llava-first-record-has-no-turns",
        write=_odd_first("talks.json", _talk("", "") | {"conversations": []}),
        says=_answers(),
        rejects={"malformed": 1},
    ),
    Case(
        name="llava-first-record-is-no-object",
        write=_odd_first("talks.json", None),
        says=_answers(),
        rejects={"malformed": 1},
    ),
    Case(
        name="llava-lines-begin-with-a-broken-line",
        write=_odd_first("talks.jsonl", '{"id": "x", "conversations": [{"from": '),
        says=_answers(),
        rejects={"malformed": 1},
    ),
    Case(
        name="rows-begin-with-a-row-of-another-kind",
        write=_odd_first("rows.jsonl", _talk("Odd?", "odd"), _ROW),
        says=(Says("odd", (GREEN,), "Odd?"), *_answers("What?")),
    ),
    Case(
        name="rows-begin-with-an-empty-object",
        write=_odd_first("rows.json", {}, _ROW),
        says=_answers("What?"),
        rejects={"malformed": 1},
    ),
]
