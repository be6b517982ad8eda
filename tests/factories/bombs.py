"""Small files that unpack to far more than a process may take, and what a build of them takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.factories.media import encoded, scene

MEBIBYTE = 1 << 20
_UNPACKED = 576 * MEBIBYTE
"""More than tests let a process take, and no more than making the files is worth."""
_CELL = 4 * MEBIBYTE
_ROWS = _UNPACKED // _CELL


@dataclass(frozen=True, slots=True)
class Taken:
    """What a command took: its exit code and output, seconds by the clock and of CPU time, and its largest process."""

    code: int
    output: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measured(*arguments: str, seconds: float = 300) -> Taken:
    """Run ``mimicit`` with ``arguments`` and watch all of its processes."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "mimicit", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    peak = 0
    ticks: dict[int, int] = {}  # of each process, as last seen
    while process.poll() is None and time.monotonic() - started < seconds:
        peak = max(peak, _look_at_session(process.pid, ticks))
        time.sleep(0.03)  # processes note their peaks themselves
    process.kill()
    output = process.communicate()[0]
    cpu_seconds = sum(ticks.values()) / os.sysconf("SC_CLK_TCK")
    return Taken(process.returncode, output, time.monotonic() - started, cpu_seconds, peak)


def _look_at_session(session: int, ticks: dict[int, int]) -> int:
    """The largest peak of memory of the processes of a session; notes the CPU time of each in ``ticks``."""
    peak = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, StopIteration, IndexError):
                if os.getsid(int(name)) == session:
                    lines = Path(f"/proc/{name}/status").read_text().splitlines()
                    peak = max(peak, next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")))
                    fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                    ticks[int(name)] = int(fields[11]) + int(fields[12])
    return peak


def put_sound_record(root: Path) -> None:
    """A picture with its caption, which must come through whatever lies beside it."""
    (root / "sound").mkdir(parents=True)
    (root / "sound" / "a.jpg").write_bytes(encoded(scene(), "JPEG"))
    (root / "sound" / "a.txt").write_text("a sound record")


def _table(path: Path, columns: Mapping[str, Any], **options: Any) -> None:
    pq.write_table(pa.table(dict(columns)), path, **options)


def _picture_column(value: bytes, rows: int = 1) -> pa.Array:
    return pa.StructArray.from_arrays([pa.repeat(value, rows), pa.nulls(rows, pa.string())], ["bytes", "path"])


def _texts() -> dict[str, pa.Array]:
    return {"instruction": pa.repeat("Q?", _ROWS), "answer": pa.repeat("x" * _CELL, _ROWS)}


def text_dictionary(root: Path) -> None:
    """Many rows of one text of 4 MiB, which the dictionary holds once: some hundred bytes."""
    _table(root / "manifest.parquet", _texts(), compression="zstd", dictionary_pagesize_limit=64 * MEBIBYTE)


def plain_texts(root: Path) -> None:
    """Many rows of 4 MiB on one page."""
    _table(root / "manifest.parquet", _texts(), compression="zstd", use_dictionary=False, write_statistics=False)


def picture_dictionary(root: Path) -> None:
    """Many rows of one picture of 4 MiB, which the dictionary holds once."""
    data = encoded(scene(), "BMP") + bytes(_CELL)
    columns = {"image": _picture_column(data, _ROWS), "text": [f"row {row}" for row in range(_ROWS)]}
    _table(root / "rows.parquet", columns, compression="zstd", dictionary_pagesize_limit=64 * MEBIBYTE)


def plain_pictures(root: Path) -> None:
    """Many rows of one picture on one page."""
    data = encoded(scene(), "BMP") + bytes(_CELL)
    columns = {"image": _picture_column(data, _ROWS), "text": [f"row {row}" for row in range(_ROWS)]}
    _table(root / "rows.parquet", columns, compression="zstd", use_dictionary=False, write_statistics=False)


def huge_text_cell(root: Path) -> None:
    """One cell of text."""
    answer = pa.array(["y" * _UNPACKED], pa.large_string())
    _table(
        root / "manifest.parquet",
        {"instruction": ["Q?"], "answer": answer},
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )


def huge_picture_cell(root: Path) -> None:
    """One picture of zeros."""
    columns = {"image": _picture_column(bytes(_UNPACKED)), "text": ["zeros"]}
    _table(root / "rows.parquet", columns, compression="zstd", use_dictionary=False, write_statistics=False)


def _arrow(path: Path, table: pa.Table, compression: str | None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(path, table.schema, options=options) as writer:
        writer.write_table(table)


def _arrow_text(compression: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        table = pa.table({"image": _picture_column(b""), "text": pa.array(["z" * _UNPACKED], pa.large_string())})
        _arrow(root / "data-00000-of-00001.arrow", table, compression)

    return write


def _arrow_picture(compression: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        table = pa.table({"image": _picture_column(bytes(_UNPACKED)), "text": ["zeros"]})
        _arrow(root / "data-00000-of-00001.arrow", table, compression)

    return write


def arrow_dictionary(root: Path) -> None:
    """Many rows of one text of 4 MiB in Arrow."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * _ROWS, pa.int16()), pa.array(["x" * _CELL]))
    table = pa.table({"image": _picture_column(b"x", _ROWS), "text": text})
    _arrow(root / "data-00000-of-00001.arrow", table, "zstd")


def many_related(root: Path) -> None:
    """Five million related ids in one row."""
    related = pa.ListArray.from_arrays(
        [0, 5_000_000], pa.array(list("0123456789")).take(pa.array(np.arange(5_000_000) % 10))
    )
    _table(root / "manifest.parquet", {"instruction": ["Q?"], "answer": ["A"], "related": related}, compression="zstd")


def many_related_lines(root: Path) -> None:
    """Five million related ids in one line of JSON."""
    related = '"1234567",' * 4_999_999 + '"1234567"'
    (root / "manifest.jsonl").write_text(f'{{"id":"a","instruction":"Q?","answer":"A","related":[{related}]}}\n')


def many_columns(root: Path) -> None:
    """Ten thousand columns, and as many rows as fit a small file."""
    columns = {f"c{number}": np.zeros(1000, np.int64) for number in range(10_000)}
    _table(root / "manifest.parquet", {"instruction": ["Q?"] * 1000, "answer": ["A"] * 1000, **columns})


def many_fields(root: Path) -> None:
    """One column of twenty thousand fields."""
    fields = [f"f{number}" for number in range(20_000)]
    meta = pa.StructArray.from_arrays([pa.array([1])] * len(fields), fields)
    _table(root / "manifest.parquet", {"instruction": ["Q?"], "answer": ["A"], "meta": meta})


def many_references(root: Path) -> None:
    """One record that shows a picture of 133 kB twenty thousand times."""
    noise = np.random.default_rng(0).integers(0, 256, (230, 230, 3), dtype=np.uint8)
    from PIL import Image

    (root / "a.png").write_bytes(encoded(Image.fromarray(noise), "PNG"))
    row = {"id": "many", "instruction": "Q?", "answer": "A", "media": ["a.png"] * 20_000}
    (root / "manifest.jsonl").write_text(json.dumps(row) + "\n")


def null_rows(root: Path) -> None:
    """A hundred million rows of nothing in some kilobytes."""
    nothing = pa.nulls(100_000_000, pa.string())
    _table(root / "manifest.parquet", {"instruction": nothing, "answer": nothing}, compression="zstd")


BOMBS: dict[str, Callable[[Path], None]] = {
    "parquet: a dictionary of one text": text_dictionary,
    "parquet: a dictionary of one picture": picture_dictionary,
    "parquet: a page of one text": plain_texts,
    "parquet: a page of one picture": plain_pictures,
    "parquet: one text cell": huge_text_cell,
    "parquet: one picture cell": huge_picture_cell,
    "parquet: rows of nothing": null_rows,
    "parquet: related ids": many_related,
    "parquet: columns": many_columns,
    "parquet: fields of a column": many_fields,
    "Arrow: zstd text": _arrow_text("zstd"),
    "Arrow: lz4 picture": _arrow_picture("lz4"),
    "Arrow: a dictionary": arrow_dictionary,
    "JSON Lines: related ids": many_related_lines,
    "JSON Lines: references": many_references,
}
