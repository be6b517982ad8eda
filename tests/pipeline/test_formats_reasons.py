"""Every reason that an importer can give: injected once into each format that can give it, built, and balanced.

Formats of pictures, clips or texts with nothing beside them have their faults, with the places, in test_formats_a.py.
`build` checks that records in = out + merged + rejected, and that each reject names its place. A last test reads the
importers themselves, so that a reason without a fault here is noticed.
"""

from __future__ import annotations

import ast
import base64
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

import mimicit.sources
from mimicit.pipeline import BuildConfig
from mimicit.records import sample_to_json
from tests.factories import raw
from tests.factories.assembling import Part
from tests.factories.builds import build
from tests.factories.exporting import make_sample
from tests.factories.formats import (
    img2dataset_table,
    mmc4_document,
    mmc4_image,
    noise,
    obelics_table,
    put_vqa,
    tar_of,
    vqa_annotation,
    vqa_question,
    write_table,
    zip_of,
)
from tests.factories.sources import base64_jpeg, put, put_lines
from tests.factories.tables import put_parquet
from tests.factories.tars import put_tar

Faults = dict[tuple[str, str], int]
"""How many rejects of each (scope, reason) a set has."""

TEXT_FAULTS: Final[dict[str, Any]] = {
    "empty_answer": " ",
    "too_long": "x" * 1_000_001,
    "malformed": {"no": "text"},
}
"""What is wrong with the answers of three records, by reason."""
PATH_FAULTS: Final = {"missing_file": "none.jpg", "outside_root": "../../a.jpg"}


def records(*reasons: str, **scopes: tuple[str, ...]) -> Faults:
    """Rejects of records for ``reasons``, and of other scopes for theirs; one for each time a reason is named."""
    named = [("record", reason) for reason in reasons]
    named += [(scope, reason) for scope, others in scopes.items() for reason in others]
    return dict(Counter(named))


def manifest(root: Path) -> Faults:
    put(root, "a.jpg", raw.picture(0))
    good = {"id": "good", "media": "a.jpg", "instruction": "What?", "answer": "This.", "related": ["nobody"]}
    bad: list[dict[str, Any]] = [{"answer": text} for text in TEXT_FAULTS.values()]
    bad += [{"media": path} for path in (*PATH_FAULTS.values(), "elsewhere/twice.jpg")]
    for place in ("one/twice.jpg", "two/twice.jpg"):
        put(root, place, raw.picture(1))
    put_lines(
        root, "manifest.jsonl", [good, *(good | fault | {"id": n, "related": []} for n, fault in enumerate(bad)), good]
    )
    lost = (*TEXT_FAULTS, *PATH_FAULTS, "ambiguous_path", "duplicate_id")
    return records(*lost, reference=("dangling_reference",))


def folder(root: Path) -> Faults:
    for name in ("good", *TEXT_FAULTS, "mute", "again"):
        put(root, f"{name}.jpg", raw.picture(0))
    put(root, "good.txt", "Good.")
    put(root, "again.json", {"id": "good.jpg", "answer": "Again."})
    for reason, text in TEXT_FAULTS.items():
        put(root, f"{reason}.json", {"answer": text})
    put(root, "blind.txt", "No picture.")
    return records(*TEXT_FAULTS, "missing_sidecar", "missing_file", "duplicate_id")


def talks(answer: object = "This.", question: str = "<image>What?") -> list[dict[str, Any]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def llava(root: Path) -> Faults:
    put(root, "a.jpg", raw.picture(0))
    good = {"id": "good", "image": "a.jpg", "conversations": talks()}
    bad: list[dict[str, Any]] = [{"conversations": talks(text)} for text in TEXT_FAULTS.values()]
    bad += [{"image": path} for path in PATH_FAULTS.values()]
    bad += [{"conversations": talks(question="<image><image>What?")}, {"audio": "a.wav"}]
    put(root, "x.json", [good, *(good | fault | {"id": n} for n, fault in enumerate(bad)), good])
    return records(*TEXT_FAULTS, *PATH_FAULTS, "placeholder_mismatch", "unsupported_media", "duplicate_id")


def mimicit_set(root: Path) -> Faults:
    good = {"instruction": "What?", "answer": "This.", "image_ids": ["LA_IMG_1"], "rel_ins_ids": ["nobody"]}
    data = {"good": good} | {reason: good | {"answer": text, "rel_ins_ids": []} for reason, text in TEXT_FAULTS.items()}
    for name, picture in (("lost", "none"), ("bad", "LA_IMG_2")):
        data[name] = good | {"image_ids": [picture], "rel_ins_ids": []}
    text = json.dumps({"data": data})
    put(root, "LA_instructions.json", text[:-2] + ', "good": ' + json.dumps(good | {"answer": "Again."}) + "}}")
    pictures = {"LA_IMG_1": base64_jpeg(), "LA_IMG_2": base64_jpeg()[:-8] + "!" * 8, "LA_IMG_3": "", "LA_IMG_4": 7}
    text = json.dumps(pictures)
    put(root, "LA.json", text[:-1] + f', "LA_IMG_1": "{base64_jpeg(1)}"' + "}")
    return records(
        *(*TEXT_FAULTS, "duplicate_id", "dangling_reference", "bad_base64"),
        media=("empty_media", "malformed", "duplicate_id"),
        reference=("dangling_reference",),
    )


def mmc4(root: Path) -> Faults:
    put(root, "good.jpg", noise(0))
    put(root, "small.jpg", raw.picture(0))
    members = {"tarred.jpg": noise(1), "again/tarred.jpg": noise(2), "../out.jpg": noise(3)}
    put(root, "x.tar", tar_of(members, links={"link.jpg": "/etc/passwd"}))
    good = mmc4_image("good.jpg", 2)
    lost = [
        mmc4_image("small.jpg", 0),
        mmc4_image("none.jpg", 0),
        mmc4_image("good.jpg", 0, 0.1),
        mmc4_image("../../good.jpg", 0),
        mmc4_image("good.jpg", 9),
    ]
    documents = [
        *(mmc4_document([image, good], id=f"loses {number}") for number, image in enumerate(lost)),
        mmc4_document([mmc4_image("tarred.jpg", 0), *[good] * 6], id="good"),
        mmc4_document([good], ["a", " ", " "], id="unpaired"),
        mmc4_document([good], [" ", " ", " "], id="no text"),
        mmc4_document([good], ["x" * 1_000_001, "b", "c"], id="long"),
        mmc4_document([good], id="malformed") | {"text_list": "s0"},
        mmc4_document([good], id="good"),
    ]
    put_lines(root, "x.jsonl", documents)
    media = ("file_size", "missing_file", "low_similarity", "outside_root", "malformed", "unpaired_media")
    media += ("too_many_pictures", "too_many_pictures", "duplicate_id", "outside_root", "unsupported_media")
    return records(*("no_media", "empty_answer", "too_long", "malformed", "duplicate_id"), media=media)


def mmc4_zipped(root: Path) -> Faults:
    put(root, "a.jpg", noise(0))
    inline = mmc4_image("i", 0, image_base64=base64.b64encode(noise(1)).decode())
    document = mmc4_document([inline, mmc4_image("a.jpg", 1)])
    put(root, "docs_0.jsonl.zip", zip_of({"docs_0.jsonl": json.dumps(document).encode()}))
    return records(media=("unsupported_media",))


def obelics(root: Path) -> Faults:
    urls = [f"https://example.org/{number}.jpg" for number in range(4)]
    put(root, "a.jpg", raw.picture(0))
    paths = {urls[0]: "a.jpg", urls[1]: "../b.jpg", urls[2]: None}
    put_lines(root, "map.jsonl", [*({"url": url, "path": path} for url, path in paths.items()), {"url": 7, "path": ""}])
    documents = [
        [urls[0], "good"],
        [*urls, "loses three", urls[0]],
        ["no picture"],
        [urls[0]],
        [urls[0], "x" * 1_000_001],
        [urls[0], "good"],
    ]
    for name, pieces, general in (("x", documents, "[]"), ("y", [[urls[0], "broken"]], "{")):
        table = obelics_table(pieces).set_column(2, "general_metadata", [[general] * len(pieces)])
        write_table(root, f"{name}.parquet", table)
    return records(
        *("no_media", "empty_answer", "too_long", "duplicate_id", "malformed"),
        media=("outside_root", "malformed", "missing_file", "unpaired_media"),
        reference=("malformed",),
    )


def obelics_tars(root: Path) -> Faults:
    urls = [f"https://example.org/{number}.jpg" for number in range(2)]
    write_table(root, "data/x.parquet", obelics_table([[urls[0], "good"], [urls[0], urls[1], "loses one"]]))
    write_table(root, "data/images/00000.parquet", img2dataset_table(urls))
    members = [("000000000.jpg", raw.picture(0)), ("a/000000000.jpg", raw.picture(1)), ("/x.jpg", raw.picture(2))]
    put_tar(root, "data/images/00000.tar", members)
    return records(media=("duplicate_id", "outside_root", "missing_file"))


def vqav2(root: Path) -> Faults:
    put(root, "train2014/COCO_train2014_000000000001.jpg", raw.picture(0))
    ids = dict(enumerate(TEXT_FAULTS.values(), 20))
    questions: list[Any] = [vqa_question(id, 1) for id in (10, 11, *ids)]
    questions += [vqa_question(12, 2), vqa_question(10, 1)]
    answers = [vqa_annotation(id, 1, multiple_choice_answer=text) for id, text in ids.items()]
    answers += [vqa_annotation(10, 1), vqa_annotation(12, 2), vqa_annotation(99, 1), vqa_annotation(10, 1), 7]
    put_vqa(root, ".", questions, answers)
    return records(
        *(*TEXT_FAULTS, "empty_answer", "missing_file", "duplicate_id"),
        reference=("dangling_reference", "duplicate_id", "malformed"),
    )


def alpaca(root: Path) -> Faults:
    good = {"id": "good", "instruction": "Add.", "input": "1 and 2", "output": "3"}
    bad: list[dict[str, Any]] = [{"output": text} for text in TEXT_FAULTS.values()]
    bad += [{"instruction": "<image>"}, {"images": ["a.jpg"]}]
    put(root, "x.json", [good, *(good | fault | {"id": n} for n, fault in enumerate(bad)), good])
    return records(*TEXT_FAULTS, "placeholder_mismatch", "unsupported_media", "duplicate_id")


def datasets(root: Path) -> Faults:
    picture = {"bytes": raw.picture(0), "path": None}
    good = {"id": "good", "image": picture, "conversations": talks("This.", "What?")}
    texts = {reason: text for reason, text in TEXT_FAULTS.items() if isinstance(text, str)}
    bad: list[dict[str, Any]] = [{"conversations": talks(text, "What?")} for text in texts.values()]
    bad += [{"conversations": [{"from": "tool", "value": "x"}, *talks(), {"from": "tool", "value": "x"}]}]
    bad += [{"conversations": talks(question="<image><image>What?")}]
    bad += [{"image": {"bytes": None, "path": path}} for path in PATH_FAULTS.values()]
    bad += [{"image": {"bytes": None, "path": None}}]
    rows = [good, *(good | fault | {"id": str(n)} for n, fault in enumerate(bad)), good | {"id": "good"}]
    put_parquet(root, "train.parquet", rows)
    return records(*texts, *PATH_FAULTS, "malformed", "placeholder_mismatch", "bad_media", "duplicate_id")


def webdataset(root: Path) -> Faults:
    picture = raw.picture(0)
    files: list[tuple[str, Any]] = [("good.jpg", picture), ("good.txt", "Good.")]
    for reason, text in TEXT_FAULTS.items():
        files += [(f"{reason}.jpg", picture), (f"{reason}.json", {"answer": text})]
    files += [("talk.jpg", picture), ("talk.json", {"conversations": talks(question="<image><image>What?")})]
    files += [("blind.txt", "No picture."), ("mute.jpg", picture), ("../out.jpg", picture)]
    files += [("twice.jpg", picture), ("twice.txt", "One."), ("twice.TXT", "Another.")]
    put_tar(root, "0.tar", files)
    return records(
        *(*TEXT_FAULTS, "placeholder_mismatch", "missing_file", "missing_sidecar", "duplicate_id"),
        media=("outside_root",),
    )


def shards(root: Path) -> Faults:
    def members(id: str, **fields: Any) -> list[tuple[str, Any]]:
        part = Part(id=id, media=(0,), instruction="What?", answer="This.")
        sample = make_sample("x", [replace(part, **fields)], {})
        (medium,) = sample.media
        return [(f"{sample.key}.json", sample_to_json(sample)), (f"{sample.key}.000.jpg", medium.data[0])]

    files = members("good")
    files += [*members("long", answer="x" * 1_000_001)]
    files += [*members("empty", answer=" "), *members("mute")[1:], *members("blind")[:1]]
    files += [(members("broken")[0][0], b"{"), (members("odd")[0][0], {"format": "mimicit/2"})]
    put_tar(root, "shard-000.tar", files)
    put_tar(root, "shard-001.tar", [*members("good"), ("../x.json", "{}")])
    return records(
        *("too_long", "empty_answer", "missing_sidecar", "missing_file", "malformed", "schema"),
        "duplicate_id",
        media=("outside_root",),
    )


def unusable_file(root: Path) -> Faults:
    alpaca(root)
    put(root, ".hidden.json", "[]")
    return alpaca(root) | {("source", "unusable_file"): 1}


def unreadable_source(root: Path) -> Faults:
    put(root, "docs_shard_0_v2.jsonl.zip", zip_of({"a.jsonl": bytes(20 << 20)}))
    return alpaca(root) | {("source", "unreadable_source"): 1}


FAULTY: Final[dict[str, Callable[[Path], Faults]]] = {
    fault.__name__: fault
    for fault in (
        *(datasets, folder, llava, manifest, mimicit_set, mmc4, mmc4_zipped, obelics, obelics_tars, shards),
        *(unreadable_source, unusable_file, vqav2, webdataset),
    )
}


@pytest.mark.parametrize("name", FAULTY)
def test_each_reason_is_counted_once_and_balanced(tmp_path: Path, name: str) -> None:
    (tmp_path / "raw").mkdir()
    expected = FAULTY[name](tmp_path / "raw")
    built = build(tmp_path / "raw", tmp_path / "out", BuildConfig(), keep_going=True)
    lost = [(r["scope"], r["reason"]) for r in built.rejects]
    assert Counter(lost) == Counter(expected)
    assert all(source["out"] or source["in"] == 0 for source in built.sources.values())


def test_no_importer_has_a_reason_that_is_not_injected_here(tmp_path: Path) -> None:
    injected: set[str] = set()
    for name, fault in FAULTY.items():
        (tmp_path / name).mkdir()
        injected |= {reason for _, reason in fault(tmp_path / name)}
    large = {"too_many_frames", "too_much_memory"}  # see tests/sources/test_frame_folders.py and test_hostile_tables.py
    assert reasons_in(Path(mimicit.sources.__file__).parent) == injected | large


def reasons_in(package: Path) -> set[str]:
    """What the modules of ``package`` give as the reason of a `RejectedError` or a reject, and those of the build."""
    found = {"dangling_reference", "unreadable_source", "unusable_file"}  # of references, of sources, of skipped files
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if called in ("RejectedError", "reject"):
                    found.add(str(node.args[0].value))
    return found
