"""Shuffle, rename and damage records at random, and watch that no sample shows a picture of another record.

Every record has a number. It stands in the record's text, and in the colours of each of its pictures. A round lays out
folders of all kinds of sources, changes order, names, keys, columns and first records, loses files and halves of
records, and builds it all. Whatever is changed, text and picture of one record keep its number: so a sample in which
they differ is a wrong pair. Every record must be in the build, merged or rejected, and every file used or named. A
round that fails is kept, with the seed that makes it again::

    python -m tools.fuzz_pairs --inputs 20000
"""

from __future__ import annotations

import argparse
import base64
import csv
import gzip
import io
import json
import random
import re
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mimicit.errors import MimicitError
from mimicit.loading import load
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.records import Sample
from mimicit.shards.verify import verify_folder
from mimicit.sources.detect import detect
from mimicit.sources.files.root import Root

Row = dict[str, Any]
Members = list[tuple[str, bytes]]

LEVELS = 6  # of each channel of a colour: 216 colours, two of which are a number
SOURCES_PER_ROUND = 24
RECORDS_PER_SOURCE = (2, 100)
STEMS = ("{}", "a.{}", "22.0{}", "img_{}", "Bild {}", "é{}", "{}.part.0", "x-{}-y", "A{}", "日{}", "{}__{}")
FOLDERS = ("", "images/", "img.d/", "a b/", "deep/er/", "0/")
PREFIXES = ("", "", "", "./", "/export/share/data/", "coco/train/")
JUNK: tuple[Any, ...] = (
    {"id": "x"}, {"conversations": []}, {"image": None}, {"id": "y", "conversations": [], "image": "nothing.jpg"},
    {"id": "z", "image": "nothing.jpg", "question": "?", "answer": ""}, {"meta": {"a": [1, 2]}}, {},
)  # fmt: skip


def main() -> int:
    """Run rounds until the inputs or the seconds are used up; exit 1 if any round failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="records laid out")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where failed rounds are kept")
    options = parser.parse_args()
    started = time.monotonic()
    counts: Counter[str] = Counter()
    failures = 0
    engine = LocalEngine(1)
    while counts["records laid out"] < options.inputs and time.monotonic() - started < options.seconds:
        seed = options.seed + counts["rounds"]
        counts["rounds"] += 1
        with tempfile.TemporaryDirectory(prefix="mimicit-pairs-") as name:
            folder = Path(name)
            counts["records laid out"] += lay_out(folder / "raw", random.Random(seed))
            faults = run_round(folder, engine, counts)
            if faults:
                failures += 1
                print(f"seed {seed}: {faults[0]}{f' and {len(faults) - 1} more' if faults[1:] else ''}", flush=True)
                options.keep.mkdir(exist_ok=True)
                shutil.copytree(folder / "raw", options.keep / f"pairs-{seed}", dirs_exist_ok=True)
    engine.close()
    outcome = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    print(f"{time.monotonic() - started:.0f} s: {outcome}; {failures} failed rounds")
    return 1 if failures else 0


def run_round(folder: Path, engine: LocalEngine, counts: Counter[str]) -> list[str]:
    """What went wrong in one round."""
    src, out = folder / "raw", folder / "out"
    try:
        config = BuildConfig(context="none")
        result = build_shards(src, out, config, engine=engine, keep_going=True)
        faults = [f"unsound: {finding}" for finding in verify_folder(out)]
        for sample in load(out):
            counts["samples"] += 1
            faults += wrong_pairs(sample)
        for source in result.manifest["sources"]:
            rejected = sum(source["rejected"].values())
            counts["rejects"] += rejected
            if source["in"] != source["out"] + source["merged"] + rejected:
                faults.append(f"unbalanced: {source['name']}")
        faults += [f"neither used nor named: {path}" for path in sorted(nobodys_files(src, out))]
    except MimicitError as error:
        return [f"refused: {error}"]
    except Exception:
        return [traceback.format_exc()]
    return faults


def wrong_pairs(sample: Sample) -> list[str]:
    """Triplets of ``sample`` whose text and pictures do not have the same number."""
    found = []
    for triplet in sample.triplets:
        said = set(map(int, re.findall(r"number (\d+)", f"{triplet.instruction} {triplet.answer}")))
        shown = {number_of(data) for index in triplet.media for data in sample.media[index].data}
        if len(said | shown) > 1:
            found.append(f"wrong pair: {sample.id!r} of {sample.source} says {sorted(said)} and shows {sorted(shown)}")
    return found


def nobodys_files(src: Path, out: Path) -> set[str]:
    """The files under ``src`` that are neither in a source, nor shown, nor named by a reject."""
    files = {path.relative_to(src).as_posix() for path in src.rglob("*") if path.is_file()}
    refs = [json.loads(text) for text in pq.read_table(out / "media.parquet", columns=["ref"])["ref"].to_pylist()]
    shown = {part[1] for ref in refs for part in ref["parts"]}
    named = set(pq.read_table(out / "rejects.parquet", columns=["locator"])["locator"].to_pylist())
    used = {path for spec in detect(Root(src)).sources for path in (*spec.files, *spec.beside)}
    return files - shown - named - used


def picture(number: int, format: str = "PNG") -> bytes:
    """A picture whose left and right halves have the colours of ``number``."""
    image = Image.new("RGB", (32, 16))
    for place, half in enumerate(divmod(number, LEVELS**3)):
        colour = half // LEVELS**2 * 51, half // LEVELS % LEVELS * 51, half % LEVELS * 51
        image.paste(colour, (16 * place, 0, 16 * place + 16, 16))
    data = io.BytesIO()
    image.save(data, format)
    return data.getvalue()


def number_of(data: bytes) -> int:
    """The number of a picture."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    number = 0
    for place in (4, 27):
        pixel: Any = image.getpixel((place, 8))
        for channel in pixel:
            number = number * LEVELS + round(channel / 51)
    return number


def lay_out(raw: Path, rng: random.Random) -> int:
    """Write folders of sources; returns how many records they have."""
    numbers = list(range(LEVELS**6))
    rng.shuffle(numbers)
    count = 0
    for place in range(SOURCES_PER_ROUND):
        folder = raw / f"s{place}"
        folder.mkdir(parents=True)
        mine = [numbers.pop() for _ in range(rng.randint(*RECORDS_PER_SOURCE))]
        rng.choice(WRITERS)(folder, mine, rng)
        count += len(mine)
    return count


class Pictures:
    """Picture files of one source, under names of a random kind; references to them, some to what is not there."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._folder, self._rng = folder, rng
        self._stem, self._below = rng.choice(STEMS), rng.choice(FOLDERS)
        self._prefix = rng.choice(PREFIXES)
        self._extension, self._format = rng.choice((("png", "PNG"), ("jpg", "JPEG"), ("PNG", "PNG"), ("webp", "WEBP")))
        self._lost = rng.choice((0.0, 0.0, 0.1))
        self._count = 0

    def add(self, number: int) -> str:
        """Write the picture of a record, or lose it; returns how the record refers to it."""
        # The place in the source, not the number: other sources have files of the same names. One that is lost has a
        # name of its own, for the end of a path may lead to the file of another source, by the rules.
        lost = self._rng.random() < self._lost
        label = f"lost{number}" if lost else self._count
        self._count += 1
        name = f"{self._below}{self._stem.format(label, label)}.{self._extension}"
        if not lost:
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number, self._format))
        prefix = self._prefix if not self._prefix.startswith(("/", "coco")) else f"{self._prefix}{self._folder.name}/"
        return f"{prefix}{name}"


def shuffled(rows: list[Any], rng: random.Random) -> list[Any]:
    """``rows`` in another order, perhaps with junk in front or between."""
    rows = rng.sample(rows, len(rows)) if rng.random() < 0.7 else rows
    for _ in range(rng.choice((0, 0, 1, 3))):
        rows = [*rows]
        rows.insert(rng.choice((0, rng.randrange(len(rows) + 1))), rng.choice(JUNK))
    return rows


def damaged(row: Row, rng: random.Random) -> Row:
    """``row`` with its fields in another order, and perhaps without one, or with one that is empty."""
    names = rng.sample(list(row), len(row))
    row = {name: row[name] for name in names}
    if rng.random() < 0.05:
        del row[names[0]]
    elif rng.random() < 0.05:
        row[names[0]] = None
    return row


def keys(count: int, rng: random.Random) -> list[Any]:
    """Ids of so many records, of a random kind: some repeat, or differ in their case alone."""
    return rng.choice(
        (
            list(range(count)),
            [str(number) for number in range(count)],
            [f"k{number // 2}" for number in range(count)],
            [("a" if number % 2 else "A") + str(number // 2) for number in range(count)],
            [f"a.{number}" for number in range(count)],
        )
    )


def conversations(numbers: list[int], folder: Path, rng: random.Random) -> list[Row]:
    """LLaVA's records."""
    files = Pictures(folder, rng)
    rows = []
    for key, number in zip(keys(len(numbers), rng), numbers, strict=True):
        turns = [
            {"from": "human", "value": f"<image>\nIs it number {number}?"},
            {"from": "gpt", "value": f"It is number {number}."},
            {"from": "human", "value": f"Surely number {number}?"},
            {"from": "gpt", "value": f"Yes, number {number}."},
        ]
        pair = rng.choice((2, 4))
        rows.append(damaged({"id": key, "image": files.add(number), "conversations": turns[:pair]}, rng))
    return rows


def questions(numbers: list[int], folder: Path, rng: random.Random, names: tuple[str, str, str]) -> list[Row]:
    """Rows of a table: a path, an instruction, an answer, and an id."""
    files = Pictures(folder, rng)
    media, instruction, answer = names
    return [
        damaged(
            {
                "id": str(key),
                media: files.add(number),
                instruction: f"Is it number {number}?",
                answer: f"It is number {number}.",
            },
            rng,
        )
        for key, number in zip(keys(len(numbers), rng), numbers, strict=True)
    ]


def write_llava(folder: Path, numbers: list[int], rng: random.Random) -> None:
    """A JSON list, or JSON Lines."""
    rows = shuffled(conversations(numbers, folder, rng), rng)
    if rng.random() < 0.5:
        write_text(folder / "llava.json", orjson.dumps(rows).decode(), rng)
    else:
        write_text(folder / "llava.jsonl", lines_of(rows, rng), rng)


def write_manifest(folder: Path, numbers: list[int], rng: random.Random) -> None:
    """A manifest in JSON Lines, CSV or parquet."""
    rows = questions(numbers, folder, rng, ("media", "instruction", "answer"))
    write_table(folder, "manifest", rows, rng)


def write_rows(folder: Path, numbers: list[int], rng: random.Random) -> None:
    """A table of questions, under names of any kind."""
    names = rng.choice((("image", "question", "answer"), ("image", "query", "response"), ("image", "prompt", "answer")))
    write_table(folder, rng.choice(("data", "train", "a.b")), questions(numbers, folder, rng, names), rng)


def write_table(folder: Path, stem: str, rows: list[Row], rng: random.Random) -> None:
    """``rows`` in one of the forms of a table."""
    kind = rng.choice(("jsonl", "json", "csv", "tsv", "parquet"))
    if stem == "manifest" and kind == "json":
        kind = "jsonl"
    if kind in ("jsonl", "json"):
        rows = shuffled(rows, rng)
        text = lines_of(rows, rng) if kind == "jsonl" else orjson.dumps(rows).decode()
        write_text(folder / f"{stem}.{kind}", text, rng)
        return
    names = rng.sample(sorted({name for row in rows for name in row}), len({name for row in rows for name in row}))
    rows = rng.sample(rows, len(rows))
    if kind == "parquet":
        columns = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
        pq.write_table(pa.table(columns), folder / f"{stem}.parquet", row_group_size=rng.choice((1, 3, 100)))
        return
    table = io.StringIO(newline="")
    delimiter = "\t" if kind == "tsv" else rng.choice((",", ";"))
    writer = csv.DictWriter(table, names, delimiter=delimiter, quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / f"{stem}.{kind}", table.getvalue(), rng)


def lines_of(rows: list[Any], rng: random.Random) -> str:
    """``rows`` as JSON Lines, perhaps after a line that is no record."""
    first = rng.choice(("", "", "", "[]\n", '["id"]\n', "null\n"))
    return first + "".join(orjson.dumps(row).decode() + "\n" for row in rows)


def write_text(path: Path, text: str, rng: random.Random) -> None:
    """``text`` in some encoding, perhaps compressed."""
    data = text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32")))
    if rng.random() < 0.1 and not data.startswith((b"\xff\xfe", b"\0")) and b"\0" not in data[:4]:
        path, data = path.with_name(f"{path.name}.gz"), gzip.compress(data)
    path.write_bytes(data)


def write_cells(folder: Path, numbers: list[int], rng: random.Random) -> None:
    """A parquet whose pictures lie in its cells: bytes, structs, lists or base64."""
    form: Callable[[bytes], Any] = rng.choice(
        (
            lambda data: data,
            lambda data: {"bytes": data, "path": None},
            lambda data: [{"bytes": data, "path": "same.png"}],
            lambda data: base64.b64encode(data).decode(),
        )
    )
    rows = [
        {
            "image": None if rng.random() < 0.05 else form(picture(number)),
            "question": f"Is it number {number}?",
            "answer": f"It is number {number}.",
        }
        for number in numbers
    ]
    if all(row["image"] is None for row in rows):
        rows[0]["image"] = form(picture(numbers[0]))
    table = pa.Table.from_pylist(rng.sample(rows, len(rows)))
    pq.write_table(table, folder / "cells.parquet", row_group_size=rng.choice((1, 3, 100)))


def write_named_cells(folder: Path, numbers: list[int], rng: random.Random) -> None:
    """A parquet whose cells name pictures, hold them, or both."""
    files = Pictures(folder, rng)
    rows = []
    for number in numbers:
        cell: dict[str, Any] = {"bytes": None, "path": files.add(number)}
        if rng.random() < 0.3:
            cell["bytes"] = picture(number)
        cells = None if rng.random() < 0.05 else [cell]
        rows.append({"images": cells, "question": f"Is it number {number}?", "answer": f"It is number {number}."})
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("images", pa.list_(struct)), ("question", pa.string()), ("answer", pa.string())]
    table = pa.Table.from_pylist(rng.sample(rows, len(rows)), pa.schema(fields))
    pq.write_table(table, folder / "named.parquet", row_group_size=rng.choice((1, 3, 100)))


def write_sidecars(folder: Path, numbers: list[int], rng: random.Random) -> None:
    """Pictures with a text of the same name beside each; some have lost their other half."""
    stem, below = rng.choice(STEMS), rng.choice(FOLDERS)
    (folder / below).mkdir(parents=True, exist_ok=True)
    suffix = rng.choice((".txt", ".caption", ".TXT"))
    for label, number in enumerate(numbers):
        name = f"{below}{stem.format(label, label)}"
        if rng.random() > 0.05:
            (folder / f"{name}.png").write_bytes(picture(number))
        if rng.random() > 0.05:
            (folder / f"{name}{suffix}").write_text(f"It is number {number}.")


def write_tars(folder: Path, numbers: list[int], rng: random.Random) -> None:
    """Tars of samples: members out of order, halves lost, keys that repeat across tars, several glued together."""
    half = rng.randint(0, len(numbers))
    stem, repeat = rng.choice(STEMS), rng.random() < 0.2
    glue = rng.random() < 0.2
    written: list[bytes] = []
    for part in (numbers[:half], numbers[half:]):
        samples: list[Members] = []
        for label, number in enumerate(part):
            key = stem.format(label, label)
            text = f"It is number {number}."
            words = rng.choice((("txt", text.encode()), ("json", orjson.dumps({"caption": text}))))
            members = [(f"{key}.png", picture(number)), (f"{key}.{words[0]}", words[1])]
            if rng.random() < 0.2:
                members.append((f"{key}.cls", b"7"))
            if rng.random() < 0.05:
                del members[rng.randrange(2)]
            samples.append(rng.sample(members, len(members)))
        if repeat and samples and len(part[0:1]) == 1:  # the key of the first, for a sample that is whole
            number = part[0]
            key = stem.format(0, 0)
            samples.append([(f"{key}.png", picture(number)), (f"{key}.txt", f"It is number {number}.".encode())])
        members = [member for sample in rng.sample(samples, len(samples)) for member in sample]
        if not repeat and rng.random() < 0.4:
            rng.shuffle(members)  # keys are unique: every half still has its other
        written.append(_tar(members))
    kind = rng.choice(("tar", "tar", "tar.gz", "tgz"))
    for number, data in enumerate([b"".join(written)] if glue else written):
        data = gzip.compress(data) if kind != "tar" else data
        (folder / f"{'part' if glue else ('cats', 'dogs')[number]}.{kind}").write_bytes(data)


def _tar(members: Members) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


WRITERS = (write_llava, write_manifest, write_rows, write_cells, write_named_cells, write_sidecars, write_tars)

if __name__ == "__main__":
    sys.exit(main())
