"""WebDataset tars, and tars that hold pictures: members, keys and suffixes."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.case import BLUE, GREEN, RED, YELLOW, Case, Colour, Says, numbered, picture
from tests.factories.sources import put
from tests.factories.tars import put_tar

Members = list[tuple[str, Any]]


def capitals_and_folders(root: Path) -> None:
    put_tar(
        root,
        "d.tar",
        [
            ("./x/._A.PNG", b"what a Mac adds"),
            ("./x/A.PNG", picture(RED)),
            ("./x/A.TXT", "red"),
            ("./x/B.png", picture(GREEN)),
            ("./x/B.Json", {"caption": "green"}),
        ],
    )


def pair(key: str, colour: Colour, text: str) -> Members:
    return [(f"{key}.png", picture(colour)), (f"{key}.txt", text)]


def _tars(tars: dict[str, Members]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for name, members in tars.items():
            put_tar(root, name, members)

    return write


def _tar(*members: Iterable[tuple[str, Any]]) -> Callable[[Path], None]:
    return _tars({"d.tar": [member for group in members for member in group]})


def _packed(name: str, pack: Callable[[bytes], bytes], root: Path) -> None:
    """Two tars, one of them packed, with equal names."""
    put_tar(root, "plain.tar", pair("0", RED, "red"))
    place = put_tar(root, "made", [*pair("0", GREEN, "green"), *pair("1", BLUE, "blue")])
    put(root, name, pack(place.read_bytes()))
    place.unlink()


def _zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def _glued(first: Members, second: Members) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        pieces = [put_tar(root, name, members) for name, members in (("a", first), ("b", second))]
        put(root, "c.tar", b"".join(piece.read_bytes() for piece in pieces))
        for piece in pieces:
            piece.unlink()

    return write


def _many_pictures(count: int, names: Callable[[int], str]) -> Callable[[Path], None]:
    """A talk about ``count`` pictures, each of which is asked for its number."""
    turns = [
        turn
        for number in range(count)
        for turn in ({"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": f"number {number}"})
    ]
    pictures = [(names(number), picture(numbered(number))) for number in range(count)]
    return _tar([("a.json", {"conversations": turns})], pictures)


def _numbers(count: int) -> tuple[Says, ...]:
    return tuple(Says(f"number {number}", (numbered(number),), "Which?") for number in range(count))


def img2dataset(root: Path) -> None:
    put_tar(
        root,
        "00000.tar",
        [
            ("000000000.jpg", picture(RED, "JPEG")),
            ("000000000.json", {"caption": None, "key": "000000000", "status": "success"}),
            ("000000000.txt", ""),
            ("000000001.jpg", picture(GREEN, "JPEG")),
            ("000000001.json", {"caption": "green", "key": "000000001", "status": "success"}),
            ("000000001.txt", "green"),
        ],
    )
    put(root, "00000_stats.json", {"count": 3, "successes": 2})
    table = pa.table(
        {"url": ["a", "b", "c"], "caption": [None, "green", "lost"], "key": ["0", "1", "2"], "status": ["success"] * 3}
    )
    pq.write_table(table, root / "00000.parquet")


ANY = None
RED_SAYS, GREEN_SAYS, BLUE_SAYS = Says("red", (RED,)), Says("green", (GREEN,)), Says("blue", (BLUE,))

CASES = [
    Case(name="capitals-and-folders", write=capitals_and_folders, says=(Says("red", (RED,)), Says("green", (GREEN,)))),
    # The order of pictures.
    Case(name="numbers-without-zeros", write=_many_pictures(12, "a.{}.png".format), says=_numbers(12)),
    Case(name="numbers-that-fall", write=_many_pictures(12, lambda n: f"a.{99 - n}.png"), says=_numbers(12)),
    Case(name="names-out-of-order", write=_many_pictures(3, lambda n: f"a.{'zma'[n]}.png"), says=_numbers(3)),
    Case(
        name="left-and-before",
        write=_tar(
            [("a.left.png", picture(RED)), ("a.before.png", picture(GREEN))],
            [("a.json", {"instruction": "Which is first?", "answer": "red"})],
        ),
        says=(Says("red", (RED, GREEN), "Which is first?"),),
    ),
    # Keys.
    Case(
        name="equal-keys-in-two-tars",
        write=_tars({"cats.tar": pair("0", RED, "a red cat"), "dogs.tar": pair("0", GREEN, "a green dog")}),
        says=(Says("a red cat", (RED,)), Says("a green dog", (GREEN,))),
    ),
    Case(
        name="equal-keys-and-texts-in-three-tars",
        write=_tars({f"{name}.tar": pair("0", RED, "red") for name in "abc"}),
        says=(RED_SAYS,) * 3,
    ),
    Case(
        name="equal-keys-in-two-folders-of-a-tar",
        write=_tar(pair("cat/0", RED, "red"), pair("dog/0", GREEN, "green")),
        says=(RED_SAYS, GREEN_SAYS),
    ),
    Case(
        name="a-key-twice-and-whole",
        write=_tar(pair("0", RED, "red"), pair("0", GREEN, "green"), pair("1", BLUE, "blue")),
        says=(RED_SAYS, GREEN_SAYS, BLUE_SAYS),
    ),
    Case(
        name="a-key-twice-and-whole-with-others-between",
        write=_tar(pair("0", RED, "red"), pair("1", BLUE, "blue"), pair("0", GREEN, "green")),
        says=(RED_SAYS, GREEN_SAYS, BLUE_SAYS),
    ),
    Case(
        name="talks-of-a-key-twice",
        write=_tar(
            [
                ("0.png", picture(RED)),
                ("0.json", {"conversations": [{"from": "human", "value": "Red?"}, {"from": "gpt", "value": "Yes."}]}),
            ],
            [
                ("0.png", picture(GREEN)),
                ("0.json", {"conversations": [{"from": "human", "value": "Green?"}, {"from": "gpt", "value": "Yes."}]}),
            ],
        ),
        says=(Says("Yes.", (RED,), "Red?"), Says("Yes.", (GREEN,), "Green?")),
        notes={"shown_first": 2},
    ),
    Case(
        name="halves-of-two",
        write=_tar(
            [("0.png", picture(RED)), ("0.png", picture(GREEN)), ("0.txt", "red"), ("0.txt", "green")],
            pair("1", BLUE, "blue"),
        ),
        says=(BLUE_SAYS,),
        rejects={"duplicate_id": 3},
    ),
    Case(
        name="three-captions-of-one-name",
        write=_tar(pair("0", RED, "red"), [("0.txt", "scarlet"), ("0.txt", "crimson")], pair("1", BLUE, "blue")),
        says=(BLUE_SAYS,),
        rejects={"duplicate_id": 3},
    ),
    Case(
        name="two-captions-whose-suffix-is-written-differently",
        write=_tar(pair("0", RED, "red"), [("0.TXT", "scarlet")], pair("1", BLUE, "blue")),
        says=(BLUE_SAYS,),
        rejects={"duplicate_id": 1},
    ),
    Case(
        name="a-half-comes-again",
        write=_tar(pair("0", RED, "red"), pair("1", BLUE, "blue"), [("0.png", picture(GREEN))]),
        says=(BLUE_SAYS,),
        rejects={"duplicate_id": 2},
    ),
    # Names with dots.
    Case(
        name="dots-in-names",
        write=_tar(pair("22.05", RED, "red"), pair("22.10", GREEN, "green"), pair("23", BLUE, "blue")),
        says=(RED_SAYS, GREEN_SAYS, BLUE_SAYS),
    ),
    Case(
        name="dots-in-names-after-one-without",
        write=_tar(pair("23", BLUE, "blue"), pair("22.05", RED, "red"), pair("22.10", GREEN, "green")),
        says=(RED_SAYS, GREEN_SAYS, BLUE_SAYS),
    ),
    Case(
        name="dots-in-names-of-which-one-has-none",
        write=_tar(pair("22", BLUE, "blue"), pair("22.05", RED, "red"), pair("22.10", GREEN, "green")),
        says=(RED_SAYS, GREEN_SAYS, BLUE_SAYS),
    ),
    Case(
        name="a-dotted-name-that-lacks-its-text",
        write=_tar(pair("1.5", RED, "red"), [("1.7.png", picture(GREEN))]),
        says=(RED_SAYS,),
        rejects={"missing_sidecar": 1},
    ),
    Case(
        name="a-dotted-name-with-json",
        write=_tar([("22.05.png", picture(RED)), ("22.05.json", {"answer": "red", "instruction": "?"})]),
        says=(Says("red", (RED,), "?"),),
    ),
    Case(
        name="what-the-files-are-for",
        write=_tar([("sample0.input.png", picture(RED)), ("sample0.outputs.txt", "red")]),
        says=(RED_SAYS,),
    ),
    Case(
        name="a-picture-and-its-name-with-txt",
        write=_tar(
            [("cat.png", picture(RED)), ("cat.png.txt", "red")], [("b.png", picture(BLUE)), ("b.png.txt", "blue")]
        ),
        says=(RED_SAYS, BLUE_SAYS),
    ),
    # Which members are pictures, and which are texts.
    Case(
        name="a-mask-beside-the-picture",
        write=_tar([("0.png", picture(RED)), ("0.seg.png", picture(BLUE)), ("0.txt", "red")]),
        says=(Says("red", (RED, BLUE)),),
    ),
    Case(
        name="a-mask-that-is-not-asked-for",
        write=_tar([("0.png", picture(RED)), ("0.seg.png", picture(BLUE)), ("0.txt", "red")]),
        says=(RED_SAYS,),
        config={"options": {"webdataset": {"pictures": ("png",)}}},
    ),
    Case(
        name="pictures-by-a-pattern",
        write=_tar(
            [("0.left.png", picture(RED)), ("0.depth.png", picture(BLUE)), ("0.left2.png", picture(GREEN))],
            [("0.txt", "red")],
        ),
        says=(Says("red", (RED, GREEN)),),
        config={"options": {"webdataset": {"pictures": ("left*.png",)}}},
    ),
    Case(
        name="texts-by-other-names",
        write=_tar(
            [("a.png", picture(RED)), ("a.caption", "red")],
            [("b.png", picture(GREEN)), ("b.text", "green")],
            [("c.png", picture(BLUE)), ("c.CAPTION", "blue")],
        ),
        says=(RED_SAYS, GREEN_SAYS, BLUE_SAYS),
    ),
    Case(
        name="classes",
        write=_tar(
            [("a.png", picture(RED)), ("a.cls", "1")],
            [("b.png", picture(GREEN)), ("b.cls", "0\n")],
            [("c.png", picture(BLUE)), ("c.cls", "blue")],
            [("d.png", picture(YELLOW)), ("d.cls", "2")],
        ),
        says=(RED_SAYS, GREEN_SAYS, BLUE_SAYS),
        rejects={"malformed": 1},
        config={"options": {"webdataset": {"classes": ("green", "red")}}},
    ),
    Case(name="img2dataset", write=img2dataset, says=(GREEN_SAYS,), rejects={"empty_answer": 1}),
    # Order, glue and compression.
    Case(
        name="pictures-first",
        write=_tar(
            [("a.png", picture(RED)), ("b.png", picture(GREEN)), ("c.png", picture(BLUE))],
            [("b.txt", "green"), ("a.txt", "red"), ("c.txt", "blue")],
        ),
        says=(RED_SAYS, GREEN_SAYS, BLUE_SAYS),
    ),
    Case(
        name="pictures-first-after-good-ones",
        write=_tar(
            pair("0", BLUE, "blue"),
            [("1.png", picture(RED)), ("2.png", picture(GREEN)), ("1.txt", "red"), ("2.txt", "green")],
        ),
        says=(RED_SAYS, GREEN_SAYS, BLUE_SAYS),
    ),
    Case(
        name="glued",
        write=_glued(pair("0", RED, "red"), pair("1", GREEN, "green")),
        says=(RED_SAYS, GREEN_SAYS),
    ),
    Case(
        name="glued-with-equal-keys",
        write=_glued(pair("0", RED, "red"), pair("0", GREEN, "green")),
        says=(RED_SAYS, GREEN_SAYS),
    ),
    Case(
        name="glued-halves",
        write=_glued([*pair("1", BLUE, "blue"), ("0.png", picture(RED))], [("0.txt", "green")]),
        says=(BLUE_SAYS,),
        rejects={"missing_sidecar": 1, "missing_file": 1},
    ),
    *(
        Case(name=f"packed-{name}", write=partial(_packed, name, pack), says=(RED_SAYS, GREEN_SAYS, BLUE_SAYS))
        for name, pack in (
            ("d.tar.gz", gzip.compress),
            ("d.tgz", gzip.compress),
            ("gzip.tar", gzip.compress),
            ("d.tar.bz2", bz2.compress),
            ("d.tar.xz", lzma.compress),
            ("d.tar.zst", _zstd),
        )
    ),
]
