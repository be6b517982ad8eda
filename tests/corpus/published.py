"""MIMIC-IT, MMC4 and other published sets as they really are."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.corpus.case import BLUE, GREEN, RED, YELLOW, Case, Colour, Says, picture
from tests.factories.sources import put, put_lines
from tests.factories.tars import put_tar


def text_of(colour: Colour) -> str:
    """A picture of one colour as base64."""
    return base64.b64encode(picture(colour)).decode()


def mimicit_set(name: str, asked: Mapping[str, list[str]], pictures: Mapping[str, object]) -> Callable[[Path], None]:
    """MIMIC-IT: instructions by the answer that each gives, with the pictures that it names."""

    def write(root: Path) -> None:
        data = {
            f"{name}_INS_{number}": {"instruction": "q", "answer": answer, "image_ids": ids, "rel_ins_ids": []}
            for number, (answer, ids) in enumerate(asked.items())
        }
        put(root, f"{name}_instructions.json", {"meta": {"version": "0.0.1"}, "data": data})
        put(root, f"{name}.json", pictures)

    return write


def first_spelled(spelled: object) -> Callable[[Path], None]:
    """MIMIC-IT whose first picture is ``spelled`` oddly, and the other two plainly."""
    pictures = {"LA_IMG_1": spelled, "LA_IMG_2": text_of(GREEN), "LA_IMG_3": text_of(BLUE)}
    return mimicit_set("LA", {"first": ["LA_IMG_1"], "green": ["LA_IMG_2"], "blue": ["LA_IMG_3"]}, pictures)


def first_spelled_case(name: str, spelled: object, *, is_lost: bool = False) -> Case:
    says = (Says("green", (GREEN,), "q"), Says("blue", (BLUE,), "q"))
    if is_lost:
        return Case(name=name, write=first_spelled(spelled), says=says, rejects={"dangling_reference": 1})
    return Case(name=name, write=first_spelled(spelled), says=(Says("first", (RED,), "q"), *says))


def tv_clips(asked: list[str], there: list[str]) -> Callable[[Path], None]:
    """One clip of TVC of two frames, red and green, named by ``asked`` and published as ``there``."""
    pictures = {f"TVC_IMG_{name}": text_of(colour) for name, colour in zip(there, (RED, GREEN), strict=True)}
    return mimicit_set("TVC", {"a clip": [f"TVC_IMG_{name}" for name in asked]}, pictures)


def tv_case(name: str, asked: str, there: str) -> Case:
    frames = [[f"{clip}_{number:05d}" for number in range(2)] for clip in (asked, there)]
    return Case(name=f"tvc-{name}", write=tv_clips(*frames), says=(Says("a clip", (RED,), "q"),))


def mmc4_inline(spell: Callable[[str], str]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        infos = [
            {"image_name": f"{n}.png", "matched_text_index": n, "matched_sim": 0.3, "image_base64": spell(text_of(c))}
            for n, c in enumerate((RED, GREEN))
        ]
        document: dict[str, Any] = {"text_list": ["It is red.", "It is green."], "image_info": infos}
        put_lines(root, "docs.jsonl", [document])

    return write


def mmc4_case(name: str, spell: Callable[[str], str]) -> Case:
    says = Says("It is green.", (RED, GREEN), "")
    return Case(name=name, write=mmc4_inline(spell), says=(says,), config={"options": {"mmc4": {"min_bytes": 0}}})


def mmc4_document(*colours: Colour | None) -> dict[str, Any]:
    """A document as OpenFlamingo packs them; the picture of a None is null."""
    infos = [
        {
            "matched_text_index": n,
            "matched_sim": 0.3,
            "image_base64": None if colour is None else f"b'{text_of(colour)}'",
        }
        for n, colour in enumerate(colours)
    ]
    return {"text_list": [f"text {n}" for n in range(len(colours))], "image_info": infos, "similarity_matrix": [[0.3]]}


def mmc4_tars(root: Path) -> None:
    """Tars of nothing but documents; one begins with what is none, and one is packed and has a name twice."""
    put_tar(root, "0.tar", [("0.json", {"note": "x"}), ("1.json", mmc4_document(None, RED))])
    put_tar(root, "1.tar", [("0.json", mmc4_document(None, None)), ("1.json", mmc4_document(GREEN, BLUE))])
    place = put_tar(root, "2", [("0.json", mmc4_document(BLUE)), ("0.json", mmc4_document(YELLOW))])
    put(root, "2.tar.gz", gzip.compress(place.read_bytes()))
    place.unlink()


def internvl(root: Path) -> None:
    """Two sets whose pictures have the same names, with the paths of another machine, and one that is not here."""

    def record(image: str, answer: str) -> dict[str, Any]:
        talk = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": answer}]
        return {"id": 0, "image": image, "conversations": talk}

    put_lines(root, "opensource/a.jsonl", [record("1.png", "red"), record("2.png", "missing")])
    put_lines(root, "opensource/b.jsonl", [record("1.png", "green"), record("2.png", "blue")])
    for path, colour in (("data/a/1.png", RED), ("data/b/1.png", GREEN), ("data/b/2.png", BLUE)):
        put(root, path, picture(colour))
    sets = {
        name: {"root": f"/mnt/x/data/{name}/", "annotation": f"/mnt/x/opensource/{name}.jsonl", "repeat_time": 1}
        for name in "abc"
    }
    put(root, "shell/meta.json", sets)


BBT = "s04e13_seg01_clip_00"
CASES: list[Case] = [
    first_spelled_case("picture-as-data-url", f"data:image/png;base64,{text_of(RED)}"),
    first_spelled_case("picture-as-bytes-of-python", f"b'{text_of(RED)}'"),
    first_spelled_case("picture-as-bytes-of-python-in-lines", str(base64.encodebytes(picture(RED)))),
    first_spelled_case("picture-in-a-list", [f"data:image/png;base64,{text_of(RED)}"]),
    first_spelled_case("picture-that-is-null", None, is_lost=True),
    first_spelled_case("picture-that-is-empty", "", is_lost=True),
    Case(
        name="internvl-list-of-sets",
        write=internvl,
        says=(Says("red", (RED,), "Q?"), Says("green", (GREEN,), "Q?"), Says("blue", (BLUE,), "Q?")),
        rejects={"missing_file": 1},
    ),
    tv_case("doubled-with-a-show", f"{BBT}_bbt_{BBT}", f"bbt_{BBT}"),
    tv_case("doubled-without-a-show", f"{BBT}_bbt_{BBT}", BBT),
    tv_case("with-a-show", f"bbt_{BBT}", f"{BBT}_bbt_{BBT}"),
    tv_case("of-another-show", f"castle_{BBT}_castle_{BBT}", f"castle_{BBT}"),
    Case(
        name="mmc4-tars-of-openflamingo",
        write=mmc4_tars,
        says=(
            Says("text 1", (RED,), ""),
            Says("text 1", (GREEN, BLUE), ""),
            Says("text 0", (BLUE,), ""),
            Says("text 0", (YELLOW,), ""),
        ),
        rejects={"malformed": 1, "no_media": 1},
        config={"options": {"mmc4": {"min_bytes": 0}}},
    ),
    mmc4_case("mmc4-bytes-of-python", lambda text: f"b'{text}'"),
    mmc4_case("mmc4-data-url", lambda text: f"data:image/png;base64,{text}"),
]
