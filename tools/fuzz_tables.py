"""Throw hostile parquet and Arrow tables at the readers of sources and watch: no crash, no hang, no gigabytes.

Every input is a table of one of several kinds (triplets, captions, pictures in cells, conversations, the Cauldron's
texts), written with random encodings: codecs, dictionaries, page versions, row groups, types and nullness of columns;
then its values, its footer or its bytes are changed, or it is a bomb that unpacks to gigabytes. It is detected, read,
and its pictures are looked up as a build does it; every fiftieth folder is also built whole, verified and loaded.
An input that ends in anything but items, rejects or a `MimicitError` of one line, takes above 10 s of CPU time, or a
process above 1 GB, is kept::

    python -m tools.fuzz_tables --inputs 8000
    python -m tools.fuzz_tables --inputs 1 --seed 4711
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mimicit.errors import MimicitError, RejectedError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.sources.detect import detect
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.items import Named, RawTriplet, Reject
from mimicit.sources.registry import SOURCES
from tools.fuzz_build import corpus, cpu_seconds, peaks_mib
from tools.fuzz_folders import compared
from tools.mutate import edit_json, mutated

HANG_S = 10.0  # of CPU time, for the machine may be busy
SILENCE_S = 90.0
MAX_MIB = 1024
BUILT = 50  # one input in so many
LOOKED_UP = 20  # pictures of one table


def main() -> int:
    """Run inputs until there are enough; exit 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=8_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where failed inputs are kept")
    options = parser.parse_args()
    os.setpgrp()  # so that the processes that are watched are ours
    started = time.monotonic()
    counts: Counter[str] = Counter()
    failures, slowest, largest_mib = 0, (0.0, 0), 0.0
    picture = corpus()["media/jpg"][0]
    with tempfile.TemporaryDirectory(prefix="mimicit-fuzz-") as name:
        maker = multiprocessing.get_context("spawn").Process(target=make_bombs, args=(Path(name) / "bombs",))
        maker.start()  # it takes gigabytes, which this one does not keep
        maker.join()
        bombs = [(path.name.partition("-")[2], path.read_bytes()) for path in sorted((Path(name) / "bombs").iterdir())]
        while counts["tables"] < options.inputs and time.monotonic() - started < options.seconds:
            seed = options.seed + counts["tables"]
            counts["tables"] += 1
            folder = Path(name) / str(seed)
            rng = random.Random(seed)
            lay_out(folder / "raw", rng, picture, bombs)
            before, used_s = time.monotonic(), cpu_seconds()
            try:
                fault = run_one(folder, counts, is_built=rng.randrange(BUILT) == 0)
            except MimicitError as error:
                counts["refused"] += 1
                fault = f"more than one line: {error}" if len(str(error).splitlines()) != 1 else None
            except Exception:
                fault = traceback.format_exc()
            wall_s, took_s = time.monotonic() - before, cpu_seconds() - used_s
            peak_mib = max(peaks_mib(), default=0.0)
            if fault is None and (took_s > HANG_S or wall_s > SILENCE_S):
                fault = f"took {took_s:.0f} s of CPU time, {wall_s:.0f} s in all"
            if fault is None and peak_mib > max(MAX_MIB, largest_mib):
                fault = f"a process took {peak_mib:.0f} MiB"
            slowest, largest_mib = max(slowest, (took_s, seed)), max(largest_mib, peak_mib)
            if fault is not None:
                failures += 1
                print(f"seed {seed}: {fault}", flush=True)
                shutil.copytree(folder / "raw", options.keep / f"table-{seed}", dirs_exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
    elapsed = time.monotonic() - started
    outcome = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if name != "tables")
    bounds = f"slowest {slowest[0]:.1f} s (seed {slowest[1]}), largest process {largest_mib:.0f} MiB"
    print(f"{counts['tables']:,} hostile tables in {elapsed:.0f} s: {outcome}; {bounds}; {failures} failed")
    return 1 if failures else 0


def run_one(folder: Path, counts: Counter[str], *, is_built: bool) -> str | None:
    """Read all that is in a folder as a build would; what is wrong with it, if anything."""
    root = Root(folder / "raw")
    found = detect(root)
    counts["sources"] += len(found.sources)
    with Reader(root, scratch=folder) as reader:
        for spec in found.sources:
            try:
                for item in SOURCES[spec.format].read(spec, root):
                    counts["rejects"] += isinstance(item, Reject)
                    if isinstance(item, RawTriplet):
                        counts["records"] += 1
                        for part in (part for ref in item.media for part in ref.parts):
                            if not isinstance(part, Named) and counts["pictures"] < LOOKED_UP * counts["tables"]:
                                counts["pictures"] += 1
                                try:
                                    reader.read(part)
                                except RejectedError:
                                    counts["rejected pictures"] += 1
            except MimicitError as error:
                counts["unreadable"] += 1
                if len(str(error).splitlines()) != 1:
                    return f"more than one line: {error}"
    if not is_built:
        return None
    counts["built"] += 1
    try:
        build_shards(folder / "raw", folder / "out", BuildConfig(), engine=LocalEngine(1), keep_going=True)
    except MimicitError as error:
        return f"more than one line: {error}" if len(str(error).splitlines()) != 1 else None
    fault, said = compared(folder / "out", None)
    return fault or (None if said == "sound" else "the build is not sound")


def lay_out(raw: Path, rng: random.Random, picture: bytes, bombs: Sequence[tuple[str, bytes]]) -> None:
    """Write a folder with one hostile table, and a picture that it may name."""
    raw.mkdir(parents=True)
    (raw / "a.jpg").write_bytes(picture)
    if rng.randrange(100) == 0:
        name, data = rng.choice(bombs)
    else:
        name, data = written(table(rng, picture), rng)
        if rng.random() < 0.6:
            data = mutated(data, rng)
        if rng.random() < 0.1 and name.endswith("parquet"):  # the length of the footer
            data = data[:-8] + rng.choice((b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\1\0\0\0")) + data[-4:]
    (raw / name).write_bytes(data)


# Tables


def table(rng: random.Random, picture: bytes) -> pa.Table:
    """A table of some format, with a few of its values, types or names changed."""
    kind = rng.choice((triplets, captions, cells, talks, cauldron))
    rows = [kind(number, picture) for number in range(rng.choice((1, 2, 5, 40)))]
    if rng.random() < 0.5:
        for _ in range(rng.randrange(1, 4)):
            edit_json(rng.choice(rows), rng)
    try:
        made = pa.Table.from_pylist(rows)
    except (pa.ArrowException, OverflowError, ValueError, AttributeError, TypeError):  # values of several types
        made = pa.Table.from_pylist([kind(number, picture) for number in range(2)])
    for _ in range(rng.randrange(3)):
        try:
            made = rng.choice(COLUMN_CHANGES)(made, rng)
        except (pa.ArrowException, OverflowError, ValueError, LookupError):
            continue  # no table can hold that
    return made


def triplets(number: int, picture: bytes) -> dict[str, Any]:
    """A row of a manifest."""
    related = [str(number - 1)] if number else []
    return {"id": str(number), "media": ["a.jpg"], "instruction": f"What {number}?", "answer": "A.", "related": related}


def captions(number: int, picture: bytes) -> dict[str, Any]:
    """A picture by its path, and a caption."""
    return {"file_name": "a.jpg", "text": f"caption {number}"}


def cells(number: int, picture: bytes) -> dict[str, Any]:
    """A picture in a cell, as `datasets` keeps it, and a caption."""
    return {"image": {"bytes": picture, "path": f"{number}.jpg"}, "text": f"caption {number}"}


def talks(number: int, picture: bytes) -> dict[str, Any]:
    """A conversation."""
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"This {number}."}]
    return {"id": str(number), "image": {"bytes": picture, "path": None}, "conversations": turns}


def cauldron(number: int, picture: bytes) -> dict[str, Any]:
    """Several pictures and several texts."""
    texts = [{"user": "What?", "assistant": f"This {number}.", "source": "x"}]
    return {"images": [{"bytes": picture, "path": None}] * 2, "texts": texts}


def cast_column(made: pa.Table, rng: random.Random) -> pa.Table:
    """A column of another type."""
    place = rng.randrange(made.num_columns)
    types = (pa.large_string(), pa.binary(), pa.int32(), pa.float16(), pa.bool_(), pa.timestamp("ns"), pa.string_view())
    return made.set_column(place, made.schema.field(place).name, made.column(place).cast(rng.choice(types), safe=False))


def encode_column(made: pa.Table, rng: random.Random) -> pa.Table:
    """A column as a dictionary, or by runs."""
    place = rng.randrange(made.num_columns)
    column = made.column(place)
    if rng.random() < 0.3:
        import pyarrow.compute as pc

        return made.set_column(place, made.schema.field(place).name, pc.run_end_encode(column))
    return made.set_column(place, made.schema.field(place).name, column.dictionary_encode())


def empty_column(made: pa.Table, rng: random.Random) -> pa.Table:
    """A column of nulls, of its type or of none."""
    place = rng.randrange(made.num_columns)
    type = rng.choice((made.schema.field(place).type, pa.null()))
    return made.set_column(place, made.schema.field(place).name, pa.nulls(made.num_rows, type))


def name_column(made: pa.Table, rng: random.Random) -> pa.Table:
    """A column under another name, or once more."""
    place = rng.randrange(made.num_columns)
    name = rng.choice(("", "id", "image", "answer", "a" * 5000, "\0", "ü", made.schema.field(0).name))
    if rng.random() < 0.5:
        return made.append_column(name, made.column(place))
    names = list(made.column_names)
    names[place] = name
    return made.rename_columns(names)


def nest_column(made: pa.Table, rng: random.Random) -> pa.Table:
    """A column within lists and objects within each other."""
    place = rng.randrange(made.num_columns)
    column: pa.Array = made.column(place).combine_chunks()
    for _ in range(rng.choice((1, 3, 30))):
        if rng.random() < 0.5:
            column = pa.StructArray.from_arrays([column], ["x"])
        else:
            column = pa.ListArray.from_arrays(pa.array(range(len(column) + 1), pa.int32()), column)
    return made.set_column(place, made.schema.field(place).name, column)


COLUMN_CHANGES: tuple[Callable[[pa.Table, random.Random], pa.Table], ...] = (
    *(cast_column, encode_column, empty_column, name_column, nest_column),
)


def written(made: pa.Table, rng: random.Random) -> tuple[str, bytes]:
    """(name, bytes) of the table in one of three formats, by random options."""
    sink = pa.BufferOutputStream()
    if rng.random() < 0.6:
        options: dict[str, Any] = {
            "compression": rng.choice(("none", "zstd", "snappy", "gzip", "brotli", "lz4")),
            "use_dictionary": rng.random() < 0.5,
            "data_page_version": rng.choice(("1.0", "2.0")),
            "row_group_size": rng.choice((1, 3, 1 << 20)),
            "data_page_size": rng.choice((1, 1 << 20)),
            "write_page_checksum": rng.random() < 0.3,
            "store_schema": rng.random() < 0.7,
            "use_byte_stream_split": False,
        }
        try:
            pq.write_table(made, sink, **options)
        except (pa.ArrowException, ValueError, OSError):  # no parquet file can hold that
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table({"text": ["x"], "file_name": ["a.jpg"]}), sink, **options)
        return rng.choice(("rows.parquet", "manifest.parquet", "metadata.parquet")), sink.getvalue().to_pybytes()
    ipc = pa.ipc.IpcWriteOptions(
        compression=rng.choice((None, "zstd", "lz4")), emit_dictionary_deltas=rng.random() < 0.5
    )
    make = pa.ipc.new_file if rng.random() < 0.4 else pa.ipc.new_stream
    try:
        with make(sink, made.schema, options=ipc) as writer:
            for batch in made.to_batches(max_chunksize=rng.choice((1, 3, 1000))):
                writer.write_batch(batch)
    except (pa.ArrowException, ValueError, OSError):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, pa.schema([("text", pa.string())])):
            pass
    return rng.choice(("data-00000-of-00001.arrow", "rows.arrow")), sink.getvalue().to_pybytes()


def make_bombs(folder: Path) -> None:
    """Small tables that unpack to 600 MB or more, as NUMBER-NAME."""
    folder.mkdir()
    held = pa.DictionaryArray.from_arrays(pa.array([0] * 1024, pa.int32()), pa.array(["x" * (1 << 22)]))
    nothing = pa.nulls(20_000_000, pa.string())
    related = pa.array([[str(number % 10) for number in range(2_000_000)]])
    text = "x" * 600_000_000
    packed: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"instruction": ["Q?"] * 1024, "answer": held}, {"dictionary_pagesize_limit": 1 << 26, "store_schema": False}),
        ({"instruction": ["Q?"], "answer": [text]}, {"use_dictionary": False, "write_statistics": False}),
        ({"instruction": nothing, "answer": nothing}, {}),
        ({"instruction": ["Q?"], "answer": ["A"], "related": related}, {}),
    ]
    for number, (columns, options) in enumerate(packed):
        pq.write_table(pa.table(columns), folder / f"{number}-manifest.parquet", compression="zstd", **options)
    made = pa.table({"text": [text], "file_name": ["a.jpg"]})
    for number, compression in enumerate(("zstd", "lz4"), 4):
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(folder / f"{number}-data-00000-of-00001.arrow", made.schema, options=options) as writer:
            writer.write_table(made)


if __name__ == "__main__":
    sys.exit(main())
