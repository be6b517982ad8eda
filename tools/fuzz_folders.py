"""Throw changed folders of shards at `mimicit verify` and `mimicit.load`, and watch whether they say the same.

Every input is a sound folder with something wrong: bytes of a file, its checksum put in order or not; a FIFO, device,
link or folder in a file's place; fields of the manifest; cells, columns, encodings and bombs in the tables; headers of
the tars; JSON, pictures and keys of samples, with every checksum and count in order. It fails where

- either ends in anything but findings, samples or a `MimicitError` of one line,
- `verify` finds nothing and `load` refuses, or gives something else than the shards hold,
- `verify` finds something and ``load(check="verify")`` goes on, or the other way round,
- bytes were changed and ``load(check="sha256")`` gives pictures that were not there before (a changed text has no
  checksum of its own: `verify` sees it in `content`),
- it takes above 10 s of CPU time or 90 s in all, or the process above 1 GB.

::

    python -m tools.fuzz_folders --inputs 12000
    python -m tools.fuzz_folders --inputs 1 --seed 4711
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mimicit.errors import MimicitError
from mimicit.loading import load
from mimicit.loading.decode import decode_pictures
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.records import Sample, sample_to_json
from mimicit.schema import canonical_json
from mimicit.shards.files import sha256_of
from mimicit.shards.reader import iterate_shard
from mimicit.shards.tar import END_OF_ARCHIVE
from mimicit.shards.verify import verify_folder
from tools.edit_shards import Entry, Shards, read_shards, seal_files
from tools.fuzz_build import corpus
from tools.mutate import edit_json, mutated

HANG_S = 10.0  # of CPU time, for the machine may be busy
MAX_MIB = 1024
PER_PROCESS = 500
SILENCE_S = 90.0
CLOSE_LOOKS = 4  # one input in so many is also loaded with check="verify"


def main() -> int:
    """Run inputs until there are enough; exit 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=12_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where failed inputs are kept")
    options = parser.parse_args()
    started = time.monotonic()
    counts: Counter[str] = Counter()
    failures, slowest, largest_mib = 0, (0.0, 0), 0.0
    with tempfile.TemporaryDirectory(prefix="mimicit-fuzz-") as name:
        sound = make_sound(Path(name) / "sound")
        maker = multiprocessing.get_context("spawn").Process(target=make_bombs, args=(sound, Path(name) / "bombs"))
        maker.start()  # it takes gigabytes, which this one does not keep
        maker.join()
        while counts["folders"] < options.inputs and time.monotonic() - started < options.seconds:
            first = options.seed + counts["folders"]
            count = min(PER_PROCESS, options.inputs - counts["folders"])
            for seed, fault, took_s, peak_mib, outcome in run_apart(sound, Path(name) / "work", first, count):
                counts["folders"] += 1
                counts[outcome] += 1
                slowest, largest_mib = max(slowest, (took_s, seed)), max(largest_mib, peak_mib)
                if fault is not None:
                    failures += 1
                    print(f"seed {seed}: {fault}", flush=True)
                    keep(Path(name) / "work" / str(seed), options.keep / f"folder-{seed}")
                if time.monotonic() - started > options.seconds:
                    break
    elapsed = time.monotonic() - started
    outcome = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if name != "folders")
    bounds = f"slowest {slowest[0]:.1f} s (seed {slowest[1]}), largest process {largest_mib:.0f} MiB"
    print(f"{counts['folders']:,} changed folders in {elapsed:.0f} s: {outcome}; {bounds}; {failures} failed")
    return 1 if failures else 0


def make_sound(folder: Path) -> Path:
    """A small finished folder with a clip, rejects and three shards."""
    raw = folder.with_name("raw")
    raw.mkdir(parents=True)
    seeds = corpus()
    rows = []
    for number in range(7):
        name = f"{number}.jpg" if number else "0.mp4"
        (raw / name).write_bytes(seeds["media/jpg"][number % 3] if number else seeds["media/mp4"][1])
        rows.append({"id": str(number), "media": name, "instruction": f"What is {number}?", "answer": f"A {number}."})
    rows.append({"id": "gone", "media": "gone.jpg", "instruction": "Where?", "answer": "Nowhere."})
    (raw / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = BuildConfig(shard_samples=3, shots=1)
    build_shards(raw, folder, config, engine=LocalEngine(1), keep_going=True)
    return folder


def run_apart(sound: Path, work: Path, first: int, count: int) -> Any:
    """(seed, fault or None, seconds, MiB, outcome) of each input from seed ``first`` on, made in another process."""
    while count > 0:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, sound, work, first, count))
        process.start()
        theirs.close()
        try:
            for _ in range(count):
                if not ours.poll(SILENCE_S):
                    raise EOFError
                yield ours.recv()
                first, count = first + 1, count - 1
        except EOFError:  # it hangs, or was ended by a signal
            process.kill()
            process.join()
            yield first, f"ended its process, or {SILENCE_S:.0f} s of silence", 0.0, 0.0, "ended"
            first, count = first + 1, count - 1
        finally:
            process.kill()
            process.join()


def _serve(connection: Connection, sound: Path, work: Path, first: int, count: int) -> None:
    os.nice(5)
    os.environ["MIMICIT_CACHE"] = str(work / "cache")
    parts = read_shards(sound)
    known = {shown(sample) for sample in load(sound)}
    most_mib = MAX_MIB * 1.0
    for seed in range(first, first + count):
        folder = work / str(seed)
        faulthandler.dump_traceback_later(SILENCE_S, exit=True)
        fault, outcome, took_s = run_one(sound, parts, known, folder, random.Random(seed))
        faulthandler.cancel_dump_traceback_later()
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if fault is None and took_s > HANG_S:
            fault = f"took {took_s:.0f} s of CPU time"
        if fault is None and peak_mib > most_mib:
            fault = f"the process took {peak_mib:.0f} MiB"
        most_mib = max(most_mib, peak_mib)  # which stays as high as it was once
        connection.send((seed, fault, took_s, peak_mib, outcome))
        if fault is None:
            shutil.rmtree(folder)


def run_one(
    sound: Path, parts: Shards, known: set[str], folder: Path, rng: random.Random
) -> tuple[str | None, str, float]:
    """Change the ``sound`` folder into ``folder``: what is wrong with what was said, what was said, and seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    name, change, is_sealed = rng.choice(CHANGES)
    try:
        if change in LOGICAL:
            edited = copy.deepcopy(parts)
            change(edited, rng)
            edited.write(folder)
        else:
            folder.mkdir(parents=True)
            for path in sound.iterdir():
                os.link(path, folder / path.name)
            change(folder, rng)
    except (MimicitError, ValueError, OverflowError, LookupError, AttributeError, pa.ArrowException, OSError):
        return None, "impossible", 0.0  # no tar or table can hold that
    closely = rng.randrange(CLOSE_LOOKS) == 0
    started = time.process_time()
    try:
        fault, outcome = compared(folder, None if is_sealed else known, closely=closely)
    except Exception:
        fault, outcome = traceback.format_exc(), "crashed"
    return (f"{name}: {fault}" if fault else None), outcome, time.process_time() - started


def compared(folder: Path, known: set[str] | None, *, closely: bool = True) -> tuple[str | None, str]:
    """Where `verify` and `load` disagree about ``folder``; ``known`` are all pictures that it may give."""
    findings, refusal = [], ""
    try:
        findings = [f"{one.file}: {one.key} {one.fault}" for one in islice(verify_folder(folder), 5)]
    except MimicitError as error:
        refusal = one_line(error)
    said = findings[0] if findings else refusal
    given, load_refusal = loaded(folder, "sha256")
    if not said:
        if load_refusal:
            return f"sound for verify, but load says: {load_refusal}", "disagreed"
        there = [digest(one.sample) for path in sorted(folder.glob("*.tar")) for one in iterate_shard(path)]
        if [value for _, value, _ in given] != there:
            return "load gives other samples than the shards hold", "disagreed"
        if loaded(folder, "size") != (given, ""):
            return "sound, but load with check='size' says otherwise", "disagreed"
    if known is not None:
        for key, _, pictures in given:
            if pictures not in known:
                return f"load gives pictures that were not there: {key} ({said or 'sound for verify'})", "disagreed"
    if closely and bool(said) != bool(opened(folder)):
        return f"verify: {said or 'sound'}; load(check='verify'): {opened(folder) or 'loads'}", "disagreed"
    return None, "sound" if not said else "refused by both" if load_refusal else "seen by verify alone"


def loaded(folder: Path, check: Any) -> tuple[list[tuple[str, str, str]], str]:
    """(key, digest, pictures) of the samples that could be read and decoded, in order, and what was refused at last."""
    given = []
    refusal = ""
    try:
        samples = load(folder, check=check)
    except MimicitError as error:
        return [], one_line(error)
    for row in range(len(samples)):
        try:
            sample = samples[row]
            decode_pictures(sample, 8)
        except MimicitError as error:
            refusal = one_line(error)
        else:
            given.append((sample.key, digest(sample), shown(sample)))
    samples.close()
    return given, refusal


def opened(folder: Path) -> str:
    """What ``load(check="verify")`` refuses; empty where it loads."""
    try:
        load(folder, check="verify")
    except MimicitError as error:
        return one_line(error)
    return ""


def one_line(error: MimicitError) -> str:
    """Its message, which must be one line."""
    if len(str(error).splitlines()) != 1:
        raise AssertionError(f"not one line: {error!r}")
    return str(error)


def digest(sample: Sample) -> str:
    """Identifies all that a sample holds."""
    return hashlib.sha256(canonical_json(sample_to_json(sample)) + shown(sample).encode()).hexdigest()


def shown(sample: Sample) -> str:
    """Identifies the pictures that a sample holds."""
    return "".join(hashlib.sha256(data).hexdigest() for media in sample.media for data in media.data)


def keep(folder: Path, target: Path) -> None:
    """Keep a failed input, as far as it can be copied."""
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*"):
        if path.is_file() and path.stat().st_size < 1 << 24:
            shutil.copyfile(path, target / path.name)


# Changes of files


def put(path: Path, data: bytes) -> None:
    """Never in place: the files are links to those of the sound folder."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def any_file(folder: Path, rng: random.Random) -> Path:
    """One of the files."""
    return rng.choice(sorted(folder.iterdir()))


def change_bytes(folder: Path, rng: random.Random) -> None:
    """Bytes of one file."""
    path = any_file(folder, rng)
    put(path, mutated(path.read_bytes(), rng))


def change_sealed_bytes(folder: Path, rng: random.Random) -> None:
    """Bytes of one file, and its checksum in the manifest."""
    path = rng.choice([path for path in sorted(folder.iterdir()) if path.name != "manifest.json"])
    put(path, mutated(path.read_bytes(), rng))
    seal(folder)


def seal(folder: Path) -> None:
    """Put the checksums of all files into the manifest."""
    put(folder / "manifest.json", (folder / "manifest.json").read_bytes())
    seal_files(folder)


def change_kind(folder: Path, rng: random.Random) -> None:
    """Something that is no file in the place of one, a link or a hole."""
    path = any_file(folder, rng)
    path.unlink()
    kind = rng.randrange(8)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        (folder / ".fifo").unlink(missing_ok=True)
        os.mkfifo(folder / ".fifo")
        path.symlink_to(".fifo")
    elif kind == 3:  # a hole of a terabyte
        path.touch()
        os.truncate(path, 1 << 40)
    elif kind < 8:
        targets = ("/dev/zero", "/proc/self/pagemap", "..", path.name, "nothing", "/etc/passwd", "/dev/stdin")
        path.symlink_to(rng.choice(targets))


def change_names(folder: Path, rng: random.Random) -> None:
    """Shards lost, exchanged, doubled or added."""
    shards = sorted(folder.glob("*.tar"))
    one, other = rng.sample(shards, 2)
    kind = rng.randrange(6)
    if kind == 0:
        one.unlink()
    elif kind == 1:
        data = one.read_bytes()
        put(one, other.read_bytes())
        put(other, data)
    elif kind == 2:
        put(one, other.read_bytes())
    elif kind == 3:
        os.link(one, folder / rng.choice(("shard-003.tar", "more.tar", ".hidden.tar")))
    elif kind == 4:
        one.rename(folder / "shard-1.tar")
    else:
        put(folder / "more.parquet", b"")
    if rng.random() < 0.5:
        seal(folder)


def change_manifest(folder: Path, rng: random.Random) -> None:
    """Some fields of the manifest."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for _ in range(rng.randrange(1, 4)):
        edit_json(manifest, rng)
    put(folder / "manifest.json", json.dumps(manifest).encode("utf-8", "surrogatepass"))


def change_length(folder: Path, rng: random.Random) -> None:
    """A shard made longer or shorter."""
    path = rng.choice(sorted(folder.glob("*.tar")))
    put(path, path.read_bytes())
    os.truncate(path, rng.choice((path.stat().st_size + 512, path.stat().st_size - 512, 0, 1 << 28)))
    if rng.random() < 0.5 and path.stat().st_size < 1 << 24:
        seal(folder)


# Changes of tables


def change_table(folder: Path, rng: random.Random) -> None:
    """Cells, rows, columns and encodings of a table, its checksum in order."""
    name = rng.choice(("index.parquet", "index.parquet", "index.parquet", "rejects.parquet"))
    table = pq.read_table(folder / name)
    for _ in range(rng.randrange(1, 3)):
        try:
            table = rng.choice(TABLE_CHANGES)(table, rng)
        except (pa.ArrowException, OverflowError, ValueError, LookupError):
            continue  # no table can hold that
    options: dict[str, Any] = {"compression": rng.choice(("none", "zstd", "snappy", "gzip", "brotli", "lz4"))}
    options["use_dictionary"] = rng.random() < 0.5
    options["data_page_version"] = rng.choice(("1.0", "2.0"))
    options["row_group_size"] = rng.choice((1, 3, 1 << 20))
    (folder / name).unlink()
    pq.write_table(table, folder / name, **options)
    data = (folder / name).read_bytes()
    if rng.random() < 0.2:
        put(folder / name, mutated(data, rng))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = sha256_of(folder / name)
    put(folder / "manifest.json", json.dumps(manifest).encode())


def change_cell(table: pa.Table, rng: random.Random) -> pa.Table:
    """One value of one row."""
    rows = table.to_pylist()
    edit_json(rng.choice(rows), rng)
    return pa.Table.from_pylist(rows, schema=table.schema)


def change_rows(table: pa.Table, rng: random.Random) -> pa.Table:
    """Rows left out, doubled, or in another order."""
    rows = [rng.randrange(table.num_rows) for _ in range(rng.randrange(2))] + list(range(table.num_rows))
    if rng.random() < 0.5:
        del rows[rng.randrange(len(rows))]
    else:
        one, other = rng.randrange(len(rows)), rng.randrange(len(rows))
        rows[one], rows[other] = rows[other], rows[one]
    return table.take(rows)


def change_column(table: pa.Table, rng: random.Random) -> pa.Table:
    """A column left out, of another type, or once more."""
    place = rng.randrange(table.num_columns)
    name = table.schema.field(place).name
    kind = rng.randrange(5)
    if kind == 0:
        return table.drop_columns([name])
    if kind == 1:
        types = (pa.string(), pa.large_string(), pa.int32(), pa.float64(), pa.binary(), pa.uint64(), pa.bool_())
        return table.set_column(place, name, table.column(name).cast(rng.choice(types), safe=False))
    if kind == 2:
        return table.set_column(place, name, table.column(name).dictionary_encode())
    if kind == 3:
        return table.set_column(place, name, pa.nulls(table.num_rows, table.schema.field(place).type))
    return table.append_column(rng.choice((name, "json", "more")), table.column(place))


def change_to_bomb(folder: Path, rng: random.Random) -> None:
    """A table that unpacks to far more than it is, its checksum in order."""
    name = rng.choice(("index.parquet", "rejects.parquet"))
    bombs = sorted((folder.parent.parent / "bombs").glob(f"*.{name}"))
    put(folder / name, rng.choice(bombs).read_bytes())
    seal(folder)


def make_bombs(sound: Path, folder: Path) -> None:
    """Tables whose texts, pages, lists or rows unpack to gigabytes or millions."""
    folder.mkdir()
    for name, columns in (("index.parquet", ("key", "source")), ("rejects.parquet", ("reason", "detail"))):
        table = pq.read_table(sound / name)
        many = pa.concat_tables([table] * (1200 // table.num_rows))
        for column in columns:
            place = table.schema.get_field_index(column)
            held = pa.DictionaryArray.from_arrays(
                pa.array([0] * many.num_rows, pa.int32()), pa.array(["x" * (1 << 22)])
            )
            bomb = many.set_column(place, column, held)
            # The type of the column is that of texts in one file, and of a dictionary in the other.
            for kind in ("text", "dictionary"):
                path = folder / f"{kind}-{column}.{name}"
                options: dict[str, Any] = {"dictionary_pagesize_limit": 1 << 26, "store_schema": kind == "dictionary"}
                pq.write_table(bomb, path, compression="zstd", **options)
            page = table.slice(0, 1).set_column(place, column, pa.array(["x" * 600_000_000]))
            path = folder / f"page-{column}.{name}"
            pq.write_table(page, path, compression="zstd", use_dictionary=False, write_statistics=False)
        pq.write_table(pa.concat_tables([table] * 50_000), folder / f"rows.{name}", compression="zstd")
        wide = table
        for number in range(1000):
            wide = wide.append_column(f"c{number}", pa.nulls(table.num_rows))
        pq.write_table(wide, folder / f"columns.{name}")
        if name == "index.parquet":
            rows = table.to_pylist()
            rows[0]["member_sizes"] = rows[0]["member_offsets"] = [0] * 1_000_000
            lists = pa.Table.from_pylist(rows, schema=table.schema)
            pq.write_table(lists, folder / f"lists.{name}", compression="zstd")


TABLE_CHANGES: tuple[Callable[[pa.Table, random.Random], pa.Table], ...] = (
    *(change_cell, change_cell, change_rows, change_column),
)


# Changes of tars


def change_header(folder: Path, rng: random.Random) -> None:
    """Fields of a header, its checksum in order; or a header of another kind in between."""
    path = rng.choice(sorted(folder.glob("*.tar")))
    data = bytearray(path.read_bytes())
    at = rng.choice([place for place in range(0, len(data), 512) if data[place + 257 : place + 262] == b"ustar"])
    header = data[at : at + 512]
    kind = rng.randrange(6)
    if kind == 0:
        header[156:157] = rng.choice((b"1", b"2", b"3", b"5", b"6", b"7", b"g", b"x", b"L", b"K", b"S", b"\0"))
    elif kind == 1:
        header[124:136] = rng.choice(
            (b"77777777777\0", b"\x80" + bytes(10) + b"\1", b"00000000000\0", b"-0000000001\0")
        )
    elif kind == 2:
        header[rng.randrange(512)] = rng.randrange(256)
    elif kind == 3:
        header[157:257] = bytes(data[0:100])
        header[156:157] = b"1"
    elif kind == 4:
        header[0:100] = rng.choice((b"../../x.json", b"/etc/passwd", bytes(data[0:100]))).ljust(100, b"\0")
    if kind < 5:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data[at : at + 512] = header
    else:
        data[at:at] = rng.choice((bytes(512), bytes(header), END_OF_ARCHIVE))
    put(path, bytes(data))
    seal(folder)


# Changes of what samples are, with every checksum and count in order


def any_entry(parts: Shards, rng: random.Random) -> Entry:
    """One of the samples."""
    return rng.choice(rng.choice([shard for shard in parts.shards if shard]))


def change_json(parts: Shards, rng: random.Random) -> None:
    """Some values in the JSON of samples."""
    for _ in range(rng.randrange(1, 3)):
        edit_json(any_entry(parts, rng).value, rng)


def change_picture(parts: Shards, rng: random.Random) -> None:
    """The bytes of one picture."""
    entry = any_entry(parts, rng)
    place = rng.randrange(len(entry.files))
    data = entry.files[place][1]
    kind = rng.randrange(6)
    if kind < 3:
        data = mutated(data, rng)
    elif kind == 3:
        data = data[: rng.randrange(len(data))]
    elif kind == 4:
        data = rng.choice(PICTURES)
    else:
        data = rng.choice((b"", b"text", b"\xff\xd8\xff", bytes(5000)))
    name = entry.files[place][0]
    entry.put_picture(place, data, name.replace("jpg", "png") if rng.random() < 0.1 else None)


def _pictures() -> list[bytes]:
    import io

    found = []
    for format in ("PNG", "WEBP", "GIF", "BMP", "JPEG", "TIFF"):
        for mode in ("RGB", "L"):
            data = io.BytesIO()
            Image.fromarray(np.arange(30 * 40, dtype=np.uint8).reshape(30, 40)).convert(mode).save(data, format)
            found.append(data.getvalue())
    return found


PICTURES = _pictures()


def change_entries(parts: Shards, rng: random.Random) -> None:
    """Keys, files and order of samples and shards."""
    one, other = any_entry(parts, rng), any_entry(parts, rng)
    kind = rng.randrange(9)
    if kind == 0:
        parts.shards[rng.randrange(3)].append(copy.deepcopy(one))
    elif kind == 1:
        one.key, other.key = other.key, one.key
    elif kind == 2:
        one.key = rng.choice(("x", "a/b", "..", "a.b", "ä", "k" * 90, other.key))
    elif kind == 3:
        parts.shards.append(copy.deepcopy(rng.choice(parts.shards)))
    elif kind == 4:
        parts.shards.reverse()
    elif kind == 5:
        one.files.pop()
    elif kind == 6:
        one.files.append((rng.choice(("009.jpg", "000.jpg", "json", "")), b"more"))
    elif kind == 7:
        one.files.reverse()
    else:
        parts.names = [f"shard-{number:03d}.tar" for number in rng.sample(range(5), len(parts.shards))]


LOGICAL: tuple[Any, ...] = (change_json, change_picture, change_entries)
CHANGES: tuple[tuple[str, Any, bool], ...] = (
    ("bytes", change_bytes, False),
    ("bytes, sealed", change_sealed_bytes, True),
    ("kind", change_kind, False),
    ("names", change_names, False),
    ("manifest", change_manifest, False),
    ("length", change_length, False),
    ("table", change_table, True),
    ("table", change_table, True),
    ("bomb", change_to_bomb, True),
    ("header", change_header, True),
    ("json", change_json, True),
    ("picture", change_picture, True),
    ("entries", change_entries, True),
)
"""Names and functions, and whether the checksums of what they change are in order."""

if __name__ == "__main__":
    sys.exit(main())
