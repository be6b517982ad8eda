"""What the records of a build cost, against the loop that people write by hand around webdataset's ShardWriter.

    python -m tools.bench_records --folder /tmp/bench-records --triplets 200000 --repeats 3

Three sets of many records over small pictures, so that pictures cost little: LLaVA-shaped (conversations of four
turns, 100 triplets a picture), VQAv2-shaped (five questions a picture) and MIMIC-IT-shaped (base64 pictures, related
ids). Both sides choose two context triplets by the same rules, encode each picture once, and write the same number of
members; they run in turns, the build on ``--workers`` processes, the loop on one. CPU seconds of all processes count,
for the machine may be shared. Beneath the build stand its stages, each with what it took of them (detect with the start
of Python; what little comes after the last is in none).
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.measured import Measured, run_measured

_SIDE = 64  # pixels
_QUALITY = 90
_SHOTS = 2
_SHARD_BYTES = 512 << 20
_WORDS = ("red", "small", "house", "street", "left", "person", "walks", "near", "table", "bright", "seven", "holding")


def main() -> None:
    """Make the sets, run both ways on each in turns, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="for input and shards; some GB")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--triplets", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--loop", type=Path, metavar="OUT", help=argparse.SUPPRESS)  # runs the loop on one set
    options = parser.parse_args()
    if options.loop:
        write_by_hand(SETS[options.sets[0]][1](_raw(options, options.sets[0])), options.loop)
        return
    print(f"{options.triplets} triplets, {options.workers} workers")
    print("set      way      CPU s  wall s  us/sample  largest MB")
    for name in options.sets:
        raw = _raw(options, name)
        if not (raw.parent / f"{raw.name}.complete").exists():
            SETS[name][0](raw, options.triplets)
            (raw.parent / f"{raw.name}.complete").touch()
        compare(options, name, raw)


def _raw(options: argparse.Namespace, name: str) -> Path:
    folder: Path = options.folder
    return folder / f"{name}-{options.triplets}"


def compare(options: argparse.Namespace, name: str, raw: Path) -> None:
    """Run both ways on one set and print a line each, and the ratio."""
    out = options.folder / "out"
    loop = [sys.executable, "-m", "tools.bench_records", "--folder", str(options.folder), "--sets", name]
    ours = [sys.executable, "-m", "mimicit", "build", "--src", str(raw), "--out", str(out), "--shots", str(_SHOTS)]
    commands = {
        "loop": [*loop, "--triplets", str(options.triplets), "--loop", str(out)],
        "mimicit": [*ours, "--workers", str(options.workers), "--quality", str(_QUALITY)],
    }
    runs: dict[str, list[Measured]] = {way: [] for way in commands}
    for _ in range(options.repeats):
        for way, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            measured = run_measured(command)
            if measured.returncode:
                sys.exit(f"{name}, {way}: {measured.stderr}")
            runs[way].append(measured)
    shutil.rmtree(out, ignore_errors=True)
    cpu = {way: statistics.median(run.cpu_seconds for run in of_way) for way, of_way in runs.items()}
    for way, of_way in runs.items():
        wall = statistics.median(run.seconds for run in of_way)
        peak = max(run.peak_rss for run in of_way) / 1e6
        micro = 1e6 * cpu[way] / options.triplets
        print(f"{name:8s} {way:8s} {cpu[way]:5.1f}  {wall:6.1f}  {micro:9.0f}  {peak:10.0f}")
    for stage in runs["mimicit"][0].stages:
        seconds = statistics.median(run.stages.get(stage, 0) for run in runs["mimicit"])
        print(f"{name:8s}   {stage:8s} {seconds:3.1f}          {1e6 * seconds / options.triplets:9.1f}")
    print(f"{name:8s} mimicit takes {cpu['mimicit'] / cpu['loop']:.2f} of the loop's CPU time", flush=True)


# The sets.


def _text(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(least, most)))


def _pictures(count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        data = io.BytesIO()
        small.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).save(data, "JPEG", quality=85)
        yield data.getvalue()


def _write_pictures(folder: Path, count: int, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(_pictures(count)):
        (folder / name.format(number)).write_bytes(data)


def write_llava(raw: Path, triplets: int) -> None:
    """A LLaVA array of conversations of four turns, 25 about each picture."""
    rng = random.Random(0)
    pictures = max(1, triplets // 100)
    _write_pictures(raw / "images", pictures, "{:012d}.jpg")
    with open(raw / "llava.json", "w") as file:
        for number in range(triplets // 4):
            talk = []
            for turn in range(4):
                question = f"{'' if turn else '<image>'}What is {_text(rng, 4, 9)} in {number}?"
                talk.append({"from": "human", "value": question})
                talk.append({"from": "gpt", "value": f"It is {_text(rng, 8, 16)}."})
            record = {"id": f"{number:09d}", "image": f"images/{number % pictures:012d}.jpg", "conversations": talk}
            file.write(("[" if number == 0 else ",\n") + json.dumps(record))
        file.write("]\n")


def write_vqav2(raw: Path, triplets: int) -> None:
    """Questions and annotations as VQAv2 has them, five about each picture."""
    rng = random.Random(0)
    pictures = max(1, triplets // 5)
    _write_pictures(raw / "train2014", pictures, "COCO_train2014_{:012d}.jpg")
    questions, annotations = [], []
    for number in range(triplets):
        common = {"image_id": number // 5, "question_id": 10 * (number // 5) + number % 5}
        questions.append({**common, "question": f"What {_text(rng, 3, 8)} is number {number}?"})
        answers = [
            {"answer": rng.choice(_WORDS), "answer_confidence": "yes", "answer_id": place} for place in range(1, 11)
        ]
        kinds = {"question_type": "what", "answer_type": "other"}
        annotations.append({**common, **kinds, "multiple_choice_answer": rng.choice(_WORDS), "answers": answers})
    head = {"data_subtype": "train2014", "data_type": "mscoco"}
    for name, key, rows in (
        ("v2_OpenEnded_mscoco_train2014_questions.json", "questions", questions),
        ("v2_mscoco_train2014_annotations.json", "annotations", annotations),
    ):
        (raw / name).write_text(json.dumps({**head, key: rows}))


def write_mimicit(raw: Path, triplets: int) -> None:
    """Instructions of MIMIC-IT with two related ids each, and their pictures as base64, ten triplets a picture."""
    rng = random.Random(0)
    pictures = max(1, triplets // 10)
    raw.mkdir(parents=True, exist_ok=True)
    encoded = {f"LA_IMG_{n:012d}": base64.b64encode(data).decode() for n, data in enumerate(_pictures(pictures))}
    (raw / "LA.json").write_text(json.dumps(encoded))
    data = {
        f"LA_INS_{number:012d}": {
            "instruction": f"What is {_text(rng, 4, 9)} in {number}?",
            "answer": f"It is {_text(rng, 8, 16)}.",
            "image_ids": [f"LA_IMG_{number % pictures:012d}"],
            "rel_ins_ids": [f"LA_INS_{rng.randrange(triplets):012d}" for _ in range(_SHOTS)],
        }
        for number in range(triplets)
    }
    (raw / "LA_instructions.json").write_text(json.dumps({"meta": {"version": "0.0.1"}, "data": data}))


# The loop.


@dataclass(slots=True)
class Record:
    """One triplet: ``picture`` names what it shows; ``before`` are the turns before it, ``related`` ids of others."""

    id: str
    picture: str
    instruction: str
    answer: str
    meta: dict[str, Any] = field(default_factory=dict)
    before: tuple[int, ...] = ()
    related: tuple[str, ...] = ()


@dataclass(slots=True)
class Corpus:
    """All records of a set, and how the bytes of a picture are read."""

    records: list[Record]
    read: Callable[[str], bytes]


def read_llava(raw: Path) -> Corpus:
    """Every turn of every conversation, with the two turns before it."""
    records: list[Record] = []
    for item in json.loads((raw / "llava.json").read_bytes()):
        turns = item["conversations"]
        for turn in range(len(turns) // 2):
            place = len(records)
            question = turns[2 * turn]["value"].replace("<image>", "").strip()
            before = tuple(range(max(place - _SHOTS, place - turn), place))
            records.append(
                Record(f"{item['id']}_{turn}", item["image"], question, turns[2 * turn + 1]["value"], before=before)
            )
    return Corpus(records, lambda name: (raw / name).read_bytes())


def read_vqav2(raw: Path) -> Corpus:
    """Every question with its most frequent answer."""
    questions = json.loads(next(raw.glob("*questions.json")).read_bytes())["questions"]
    annotations = json.loads(next(raw.glob("*annotations.json")).read_bytes())["annotations"]
    answers = {row["question_id"]: row for row in annotations}
    records = []
    for row in questions:
        answer = answers[row["question_id"]]
        meta = {key: answer[key] for key in ("answers", "answer_type", "question_type")}
        picture = f"train2014/COCO_train2014_{row['image_id']:012d}.jpg"
        records.append(
            Record(str(row["question_id"]), picture, row["question"], answer["multiple_choice_answer"], meta)
        )
    return Corpus(records, lambda name: (raw / name).read_bytes())


def read_mimicit(raw: Path) -> Corpus:
    """Every instruction with its related ids."""
    pictures = json.loads((raw / "LA.json").read_bytes())
    data = json.loads((raw / "LA_instructions.json").read_bytes())["data"]
    records = [
        Record(id, row["image_ids"][0], row["instruction"], row["answer"], related=tuple(row["rel_ins_ids"]))
        for id, row in data.items()
    ]
    return Corpus(records, lambda name: base64.b64decode(pictures[name]))


def write_by_hand(corpus: Corpus, out: Path) -> None:
    """Two context triplets for every record: turns before, related, the same picture, random; into shards."""
    import webdataset

    out.mkdir(parents=True)
    records = corpus.records
    of_picture: dict[str, list[int]] = {}
    place_of = {record.id: place for place, record in enumerate(records)}
    for place, record in enumerate(records):
        of_picture.setdefault(record.picture, []).append(place)
    encoded: dict[str, bytes] = {}
    with webdataset.ShardWriter(str(out / "shard-%03d.tar"), maxsize=_SHARD_BYTES, maxcount=10**9, verbose=0) as sink:
        for place, record in enumerate(records):
            rng = random.Random(place)
            chosen = list(record.before)
            chosen += [place_of[id] for id in record.related if id in place_of and place_of[id] != place]
            others = of_picture[record.picture]
            while len(chosen) < _SHOTS and len(others) > len(chosen) + 1:
                other = rng.choice(others)
                if other != place and other not in chosen:
                    chosen.append(other)
            while len(chosen) < min(_SHOTS, len(records) - 1):
                other = rng.randrange(len(records))
                if other != place and other not in chosen:
                    chosen.append(other)
            sample: dict[str, Any] = {"__key__": f"{place:012d}"}
            triplets, media, last = [], 0, ""
            for role, other in [*(("context", other) for other in chosen[:_SHOTS]), ("query", place)]:
                said = records[other]
                shown = []
                if said.picture != last:
                    if said.picture not in encoded:
                        encoded[said.picture] = _encoded(corpus.read(said.picture))
                    sample[f"{media:03d}.jpg"] = encoded[said.picture]
                    shown, media, last = [media], media + 1, said.picture
                text = {"id": said.id, "instruction": said.instruction, "answer": said.answer}
                triplets.append({**text, "role": role, "media": shown})
            sample["json"] = {"id": record.id, "triplets": triplets, "meta": record.meta}
            sink.write(sample)


def _encoded(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        result = io.BytesIO()
        picture.convert("RGB").save(result, "JPEG", quality=_QUALITY)
    return result.getvalue()


SETS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], Corpus]]] = {
    "llava": (write_llava, read_llava),
    "vqav2": (write_vqav2, read_vqav2),
    "mimicit": (write_mimicit, read_mimicit),
}


if __name__ == "__main__":
    main()
