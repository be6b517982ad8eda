"""What a file is taken for: odd first records, odd names, and files that nobody uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.corpus.case import GREEN, Case, Says, picture
from tests.factories.sources import put


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

CASES: list[Case] = [
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
