"""Plain records take a short way, and come out as they would by the long one; so do odd ones, which take that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from mimicit.errors import RejectedError
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InJson, Item, RawTriplet, Reject, Row
from mimicit.sources.records.plain_records import PlainRecords
from mimicit.sources.records.row_media import MediaFinder
from mimicit.sources.records.rows import RowReader
from tests.factories.sources import base64_jpeg, jpeg, put

SPEC = SourceSpec(name="talks", format="llava", files=("x.json",), why="")
ABSENT = object()
NAMES = (("from", "value", "human", "gpt"), ("role", "content", "user", "assistant"))
ODD = (None, 1, float("nan"), [], {})
TEXTS = (
    *("<image>\nWhat?", "What?\n<image>", " What? ", "", " ", "<image>", "<image> <b>", "<b> <image>", "a <image> b"),
    *("<image>\n<image>", "<Image>", "<image 1>", "<video>", "<img>a.jpg</img>", "1 < 2", "<answer>", "a\0b", "\ud800"),
    *("Ä\x01", *ODD),
)
TOO_LONG = "x" * 1_000_001
PICTURES = (
    *("a.jpg", "c.mp4", "no.jpg", "", ["a.jpg"], ["a.jpg", "sub/b.png"], ["no.jpg"], [""], [None], ["[]"]),
    *(base64_jpeg(), [base64_jpeg()], {"path": "a.jpg"}, ABSENT),
)
FEW_PICTURES = ("a.jpg", ["a.jpg"], "", "no.jpg", ABSENT)
IDS = ("x", "", 7, 7.5, "i" * 4000, "i" * 4095, "\ud800", "a\0", None, ABSENT)
SPEAKERS = ("human", "gpt", "user", "assistant", "GPT", " human", "system", "nobody", *ODD)
EXTRA: tuple[dict[str, Any], ...] = (
    *({name: value} for name in ("model", "audio", "video", "img_path", "meta", "system") for value in ("a.jpg", *ODD)),
    *({"messages": value} for value in ([], None, "no", [{"role": "user", "content": "Q"}])),
    *({"answer": "It."}, {"texts": []}, {"history": [["a", "b"]]}, {"a": "\ud800"}),
)
LISTS = ("[]", '["a", "b"]', " ['a', 'b']", ["a", "b"], ["a", "a", "b"], True, {"text": "a"}, "A", "(b)", "0", "2.0")
OF_TRIPLETS: tuple[dict[str, Any], ...] = (
    *({"choices": value} for value in ("['This.', 'That.']", ["This.", "That."], [], None, 1)),
    *({"A": "This.", "B": "That."}, {"option_1": "This.", "option_2": "That."}, {"a1": "x", "a2": "This."}),
    *(
        {name: value}
        for name in ("query", "related", "document", "label", "answer_idx")
        for value in (True, False, *ODD)
    ),
    *({"answers": value} for value in (["That.", "That."], [{"answer": "That."}], "That.", None)),
    *({"note": None}, {"note": float("nan")}, {"photo": "notes/a.jpg"}, {"note": "a.jpg"}, {"image_2": "sub/b.png"}),
)
ASKING = ("instruction", "question", "Question", "prompt", "query", "text_input", "problem")
ANSWERING = ("answer", "output", "outputs", "response", "caption", "text", "label", "Answer", "completion")


def talk(texts: list[Any], names: tuple[str, ...] = NAMES[0]) -> list[dict[str, Any]]:
    return [{names[0]: names[2 + number % 2], names[1]: text} for number, text in enumerate(texts)]


def record(said: object, picture: object = "a.jpg", id: object = "x", **more: Any) -> dict[str, Any]:
    fields = {"id": id, "image": picture, "conversations": said, **more}
    return {name: value for name, value in fields.items() if value is not ABSENT}


def records() -> Iterator[dict[str, Any]]:
    """Plain records in which one or two things are odd."""
    plain = ["<image>\nWhat?", "This.", "And then?", "That."]
    for place, text, picture in product(range(4), TEXTS, FEW_PICTURES):
        yield record(talk([*plain[:place], text, *plain[place + 1 :]]), picture)
    yield from (record(talk([*plain[:place], TOO_LONG, *plain[place + 1 :]])) for place in range(4))
    yield record(talk(plain), model=TOO_LONG)
    for count, picture, id, names in product(range(5), FEW_PICTURES, IDS, NAMES):
        yield record(talk(plain[:count], names), picture, id)
    for picture, more in product(PICTURES, EXTRA):
        yield record(talk(plain), picture, **more)
    for place, name, value in product(range(2), ("from", "role", "value", "image", "user", "weight"), SPEAKERS):
        said = talk(plain)
        said[place][name] = value
        yield record(said)
    for said in (*ODD, "no", '[{"from": "human", "value": "Q"}]', ["from"], [["from"]], [None], [{}], [{"from": 1}]):
        yield from (record(said), record([*talk(plain), said]), record(ABSENT, messages=said))
    yield from (record(ABSENT, messages=talk(plain, names)) for names in NAMES)


def triplet(
    question: object, answer: object, picture: object = "a.jpg", id: object = "x", **more: Any
) -> dict[str, Any]:
    fields = {"id": id, "image": picture, "question": question, "answer": answer, **more}
    return {name: value for name, value in fields.items() if value is not ABSENT}


def triplets() -> Iterator[dict[str, Any]]:
    """Plain triplets in which one or two things are odd."""
    for text, picture in product((*TEXTS, *LISTS, ABSENT), FEW_PICTURES):
        yield from (triplet(text, "This.", picture), triplet("What?", text, picture))
    yield from (triplet(TOO_LONG, "This."), triplet("What?", TOO_LONG), triplet("What?", "This.", model=TOO_LONG))
    yield from (triplet("What?", "This.", picture, id) for picture, id in product(PICTURES, IDS))
    for picture, more in product(PICTURES, (*EXTRA, *OF_TRIPLETS)):
        yield triplet("What?", "This.", picture) | more
    for asking, answering, extra in product(ASKING, ANSWERING, (*ASKING, *ANSWERING, "input", "image_id", "no")):
        yield triplet(ABSENT, ABSENT) | {asking: "What?", answering: "This.", extra: "Else."}


def plain(root: Root) -> PlainRecords:
    return PlainRecords(
        spec=SPEC, finder=MediaFinder(root, ""), id_of=lambda fields: "7", id_fields=("id",), keeps_nulls=True
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    folder = tmp_path_factory.mktemp("talks")
    for name in ("a.jpg", "sub/b.png", "c.mp4"):
        put(folder, name, jpeg())
    return Root(folder)


@pytest.mark.parametrize("options", [{}, {"keeps_nulls": True}, {"require_placeholders": True}, {"own_media": True}])
def test_the_short_way_leads_where_the_long_one_does(root: Root, options: dict[str, bool]) -> None:
    def locate(steps: Any) -> InJson:
        return InJson("x.json", len(steps), 1)

    reader = RowReader(spec=SPEC, finder=MediaFinder(root, ""), **options)
    rows = [Row(f"x.json[{number}]", fields, locate) for number, fields in enumerate([*records(), *triplets()])]
    rows.append(Row("x.json[-]", RejectedError("malformed", "not JSON")))
    found: list[tuple[str, Counter[str]]] = []
    for row in rows:
        for way in (reader.items([row]), reader.items_of(row)):
            root.found.clear()
            items: list[Item] = list(way)
            found.append((repr(items), Counter(root.found)))
    assert found[::2] == found[1::2]


@pytest.mark.parametrize("fields", [{"instruction": "What?", "answer": "This."}, {"conversations": talk(["A?", "B."])}])
def test_of_several_fields_that_nobody_reads_the_first_is_named(root: Root, fields: dict[str, Any]) -> None:
    names = [f"{of}_{end}" for of, end in product(("photo", "frame", "clip", "gif"), ("dir", "url", "link", "source"))]
    reader = RowReader(spec=SPEC, finder=MediaFinder(root, ""), require_placeholders=True)  # takes the long way
    for first in range(len(names)):
        turned = [*names[first:], *names[:first]]
        (reject,) = reader.items([Row("x.json[0]", fields | dict.fromkeys(turned, "x"))])
        assert isinstance(reject, Reject)
        assert reject.detail.startswith(f"column {turned[0]!r} ")


@pytest.mark.parametrize("question", ["What?", "<image>\nWhat?", "What?\n<image>"])
def test_a_published_triplet_takes_the_short_way(root: Root, question: str) -> None:
    items = plain(root).items(Row("x.json[0]", triplet(question, "This.", id=7, model="m", note=None)))
    assert items is not None
    (item,) = items
    assert isinstance(item, RawTriplet)
    assert (item.id, item.instruction, item.answer, item.meta) == ("7", "What?", "This.", {"model": "m"})


@pytest.mark.parametrize("question", ["What?", "<image>\nWhat?", "What?\n<image>"])
@pytest.mark.parametrize("names", NAMES)
def test_a_published_conversation_takes_the_short_way(root: Root, question: str, names: tuple[str, ...]) -> None:
    said = talk([question, "This.", "And then?", "That."], names)
    items = plain(root).items(Row("x.json[0]", record(said, id=7, model="m")))
    assert items is not None
    triplets = [item for item in items if isinstance(item, RawTriplet)]
    assert [(t.id, t.instruction, t.answer, t.meta) for t in triplets] == [
        ("7_0", "What?", "This.", {"model": "m"}),
        ("7_1", "And then?", "That.", {"model": "m"}),
    ]
    assert len(items) - len(triplets) == ("<" not in question)
